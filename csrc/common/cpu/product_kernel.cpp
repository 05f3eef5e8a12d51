// Plain loops, which the compiler vectorises for each SIMD level.
#include "common/cpu/product_kernel.h"

#ifndef SVGDX_ISA
#define SVGDX_ISA baseline
#endif

namespace svgdx::SVGDX_ISA {

template <class S>
void product_epilogue(int64_t rows, int64_t width, int64_t stride, const Compute<S>* bias, Compute<S> slope,
                      S* values) {
  using C = Compute<S>;
  for (int64_t r = 0; r < rows; ++r) {
    S* __restrict row = values + r * stride;
    for (int64_t i = 0; i < width; ++i) {
      const C value = widen(row[i]) + (bias ? bias[i] : C(0)), scaled = slope * value;
      row[i] = narrow<S>(value > scaled ? value : scaled);  // a maximum, because a conditional would not vectorise
    }
  }
}

#define SVGDX_INSTANTIATE(S) \
  template void product_epilogue(int64_t, int64_t, int64_t, const Compute<S>*, Compute<S>, S*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::SVGDX_ISA
