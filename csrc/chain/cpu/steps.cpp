// The small steps of a chain on the CPU, where they are too short to be shared by threads.
#include <limits>

#include "chain/args.h"
#include "chain/step.h"

namespace svgdx::cpu {

template <class T>
void chain_bound(const BoundArgs<T>& args, void*) {
  for (int64_t b = 0; b < args.batch; ++b) {
    T most = -std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < args.particles; ++i) most = chain::larger(args.sqnorm[b * args.particles + i], most);
    args.limit[b] = chain::limit_of(most);
    args.bounded[b] = chain::held_under(args.step[b], args.limit[b], args.slope);
  }
}

template <class T>
void chain_bound_backward(const BoundGradArgs<T>& args, void*) {
  double sum = 0;
  for (int64_t b = 0; b < args.batch; ++b) {
    const T grad = args.grad[b] * chain::slope_of(args.step[b], args.limit[b], args.slope);
    sum += double(grad);
    if (args.step.stride != 0) args.grad_step[b] = grad;
  }
  if (args.step.stride == 0) args.grad_step[0] = T(sum);
}

template <class T>
void chain_learnt(const LearntArgs<T>& args, void*) {
  for (int64_t i = 0; i < args.count; ++i) {
    args.out[i] = args.grad == nullptr ? chain::learnt(args.raw[i], args.low, args.width)
                                       : args.grad[i] * chain::learnt_slope(args.raw[i], args.low, args.width);
  }
}

#define SVGDX_INSTANTIATE(T)                                          \
  template void chain_bound(const BoundArgs<T>&, void*);              \
  template void chain_bound_backward(const BoundGradArgs<T>&, void*); \
  template void chain_learnt(const LearntArgs<T>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cpu
