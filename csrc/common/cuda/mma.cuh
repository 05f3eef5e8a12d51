// Products of float matrices on tensor cores. With two parts, to the accuracy of float32: each number is the sum of two
// numbers of TF32 (11 significant bits), and of the four products of two such sums the largest three are added. With
// one part, if torch permits TF32 (precision.h): each number is rounded, and there is one product.
//
// One product is A (16, 8) times B (8, 8) by one warp. With g = lane / 4 and t = lane % 4, a lane holds
//   A: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)      B: (t, g), (t + 4, g)
//   C: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// (PTX ISA, mma.m16n8k8 for .tf32). The order of the eight summands does not matter, so that C can serve as the A of a
// next product if B is read in the order 0, 2, 4, 6, 1, 3, 5, 7.
#pragma once

#include <type_traits>

#include "common/cuda/simt_macros.cuh"

namespace svgdx::cuda {

// Adds A times B to C. The hardware ignores the 13 lowest bits of a and b and rounds its sums towards zero; so does the
// host version.
__device__ inline void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#ifdef SVGDX_SIMT
  mma_m16n8k8_tf32(c, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

__device__ inline float nearest_tf32(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xffffe000u);
}

// N floats as sums of two numbers: `big` is rounded to the nearest number of TF32, and the rest has at most 13 bits.
template <int N, int Parts>
struct Split {
  float big[N], small[N];
  __device__ void set(int i, float value) {
    big[i] = nearest_tf32(value);
    small[i] = value - big[i];
  }
};
template <int N>
struct Split<N, 1> {
  float big[N];
  __device__ void set(int i, float value) { big[i] = nearest_tf32(value); }
};

// Calls f with the number of parts, as a constant.
template <class F>
void dispatch_parts(bool tf32, F f) {
  if (tf32) return f(std::integral_constant<int, 1>());
  f(std::integral_constant<int, 2>());
}

// Adds A times B to C: with two parts three products, the largest last.
template <int Parts>
__device__ inline void mma_split(float (&c)[4], const Split<4, Parts>& a, const Split<2, Parts>& b) {
  if constexpr (Parts == 2) {
    mma_tf32(c, a.small, b.big);
    mma_tf32(c, a.big, b.small);
  }
  mma_tf32(c, a.big, b.big);
}

// A sum of products. The small terms are added apart, and sums that go on for long are moved to ordinary registers
// every now and then: rounding towards zero would otherwise add up.
template <int Parts>
struct ProductSum {
  float big[4] = {}, small[4] = {};
  __device__ void add(const Split<4, Parts>& a, const Split<2, Parts>& b) {
    mma_tf32(big, a.big, b.big);
    if constexpr (Parts == 2) {
      mma_tf32(small, a.big, b.small);
      mma_tf32(small, a.small, b.big);
    }
  }
  __device__ float total(int i) const { return big[i] + small[i]; }
};

}  // namespace svgdx::cuda
