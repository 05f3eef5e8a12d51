// Plain loops, which the compiler vectorises for each SIMD level.
#include "mlp/cpu/rollout_kernel.h"

#ifndef SVGDX_ISA
#define SVGDX_ISA baseline
#endif

namespace svgdx::SVGDX_ISA {
namespace {

// For slopes up to 1. A maximum, because a conditional would not vectorise.
template <class C>
inline C activation(C value, C slope) {
  const C scaled = slope * value;
  return value > scaled ? value : scaled;
}

}  // namespace

template <class S>
void mlp_first_layer(const MlpFirstLayer<S>& args) {
  using C = Compute<S>;
  const int64_t width = args.width;
  for (int64_t r = 0; r < args.rows; ++r) {
    C* __restrict argument = args.argument + r * width;
    S* __restrict out = args.out + r * width;
    if (args.location) {
      const C* __restrict column = args.columns + args.location[r] * width;
      const C factor = args.factor[r];
      for (int64_t i = 0; i < width; ++i) argument[i] += factor * column[i];
    }
    for (int64_t i = 0; i < width; ++i) out[i] = narrow<S>(activation(argument[i], args.slope));
  }
}

template <class S>
void mlp_activate_backward(int64_t count, const S* result, Compute<S> slope, S* grad) {
  const S* __restrict y = result;
  S* __restrict g = grad;
  for (int64_t i = 0; i < count; ++i) {
    const Compute<S> factor = widen(y[i]) > Compute<S>(0) ? Compute<S>(1) : slope;
    g[i] = narrow<S>(factor * widen(g[i]));
  }
}

template <class S>
void mlp_gather(const MlpGather<S>& args) {
  const int64_t dim = args.dim, width = 3 * dim;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t visit = (args.first + r) / args.batch, b = (args.first + r) % args.batch;
    const int64_t time = b < args.split ? visit : args.visits - 1 - visit;
    memcpy(args.grads + r * width, args.grad_logits + (b * args.visits + time) * width, width * sizeof(S));
    const int32_t* __restrict set_time = args.set_time + b * dim;
    const int8_t* __restrict final = args.final + b * dim;
    S* __restrict state = args.states + r * dim;
    for (int64_t d = 0; d < dim; ++d) {
      state[d] = narrow<S>(set_time[d] < int32_t(time) ? Compute<S>(final[d]) : Compute<S>(-1));
    }
  }
}

template <class S>
void mlp_add_rows(int64_t rows, int64_t width, const S* values, Compute<S>* sums) {
  Compute<S>* __restrict sum = sums;
  for (int64_t r = 0; r < rows; ++r) {
    const S* __restrict row = values + r * width;
    for (int64_t i = 0; i < width; ++i) sum[i] += widen(row[i]);
  }
}

#define SVGDX_INSTANTIATE(S)                                              \
  template void mlp_first_layer(const MlpFirstLayer<S>&);                 \
  template void mlp_activate_backward(int64_t, const S*, Compute<S>, S*); \
  template void mlp_gather(const MlpGather<S>&);                          \
  template void mlp_add_rows(int64_t, int64_t, const S*, Compute<S>*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::SVGDX_ISA
