// Random signs: each lane draws one Philox block, and the warp writes the 32 blocks in memory order.
#pragma once

#include "common/cuda/row_group.cuh"
#include "probe/args.h"
#include "probe/estimate.h"

namespace svgdx::cuda {

constexpr int kWarpSigns = 32 * int(kSignsPerBlock);

template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    rademacher_kernel(SignArgs<S> args, bool aligned, int64_t first_block) {
  constexpr int kWidth = kPackWidth<S>;
  using Words = Pack<uint32_t, 4>;
  SVGDX_SHARED(Words, blocks, kRowWarps, 32);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int64_t start = ((first_block + blockIdx.x) * kRowWarps + warp) * kWarpSigns;
  const PhiloxWords drawn = philox(args.key.loaded(), uint64_t(start / kSignsPerBlock + lane));
  Words own;
  SVGDX_UNROLL
  for (int i = 0; i < 4; ++i) own.v[i] = drawn.w[i];
  blocks[warp][lane] = own;
  __syncwarp();
  const auto* words = reinterpret_cast<const uint32_t*>(blocks[warp]);
  SVGDX_UNROLL_BY(4)
  for (int e = lane * kWidth; e < kWarpSigns; e += 32 * kWidth) {
    const int64_t left = args.count - start - e;
    if (left <= 0) break;
    const uint32_t word = words[e / kSignsPerWord];
    Pack<S, kWidth> signs;
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) signs.v[w] = sign_of<S>(word, e % kSignsPerWord + w);
    store_pack(args.out + start + e, signs, left, aligned && left >= kWidth);
  }
}

template <class S>
void rademacher(const SignArgs<S>& args, void* stream) {
  const bool aligned = is_aligned(args.out, 0);
  launch_blocks("rademacher", ceil_div(args.count, kRowWarps * kWarpSigns), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((rademacher_kernel<S>), grid, kRowThreads, 0, stream, args, aligned, first);
  });
}

}  // namespace svgdx::cuda
