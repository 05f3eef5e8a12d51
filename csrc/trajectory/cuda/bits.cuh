// Masks of a block's rows in shared memory, one bit per element, written by whole warps from set times or states.
#pragma once

#include "trajectory/cuda/row.cuh"

namespace svgdx::cuda {

// The bits of one segment: word 1 + e / 32 holds element e; the words before and after are zero, for packs that extend
// beyond the segment.
struct BitMask {
  const uint32_t* words;

  template <class S>
  __device__ uint32_t operator()(const Segment<S>&, int e) const {
    const int index = e + 32;
    const uint32_t* word = words + (index >> 5);
    const uint64_t pair = uint64_t(word[1]) << 32 | word[0];
    return uint32_t(pair >> (index & 31)) & ((1u << Segment<S>::kWidth) - 1);
  }
};

// Words of a segment of `groups` groups of 32 locations, with one bit per location or with two.
constexpr SVGDX_HD int bit_words(int groups) { return groups + 2; }
constexpr SVGDX_HD int double_bit_words(int groups) { return 2 * groups + 2; }

// Repeats every bit of the low half.
__device__ inline uint32_t twice(uint32_t bits) {
  bits &= 0xffffu;
  bits = (bits | bits << 8) & 0x00ff00ffu;
  bits = (bits | bits << 4) & 0x0f0f0f0fu;
  bits = (bits | bits << 2) & 0x33333333u;
  bits = (bits | bits << 1) & 0x55555555u;
  return bits | bits << 1;
}

// Writes the bits of locations [32 group, 32 group + 32), one of `groups` such groups; the whole warp must call it.
__device__ inline void write_bits(uint32_t* words, int group, int groups, uint32_t bits) {
  const int lane = threadIdx.x % 32;
  if (lane == 0) words[1 + group] = bits;
  if (lane == 1 && group == 0) words[0] = 0;
  if (lane == 2 && group == groups - 1) words[1 + groups] = 0;
}
__device__ inline void write_double_bits(uint32_t* words, int group, int groups, uint32_t bits) {
  const int lane = threadIdx.x % 32;
  if (lane < 2) words[1 + 2 * group + lane] = twice(lane == 0 ? bits : bits >> 16);
  if (lane == 2 && group == 0) words[0] = 0;
  if (lane == 3 && group == groups - 1) words[1 + 2 * groups] = 0;
}

// Whole warps call visit(row of the block, group of 32 locations), for every row below `rows`.
template <class F>
__device__ inline void visit_locations(int rows, int groups, F visit) {
  SVGDX_UNROLL_BY(1)
  for (int item = threadIdx.x / 32; item < rows * groups; item += kRowWarps) visit(item / groups, item % groups);
}

}  // namespace svgdx::cuda
