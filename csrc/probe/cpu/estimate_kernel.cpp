#include "probe/cpu/estimate_kernel.h"

#include <algorithm>

#include "common/vec.h"
#include "memory/buffer.h"
#include "probe/estimate.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <class S>
SVGDX_INLINE Compute<S> dot(const S* a, const S* b, int64_t n) {
  using C = Compute<S>;
  C lanes[kLanes<C>] = {};
  int64_t d = 0;
  for (; d + kLanes<C> <= n; d += kLanes<C>) {
    for (int l = 0; l < kLanes<C>; ++l) lanes[l] += widen(a[d + l]) * widen(b[d + l]);
  }
  C sum = 0;
  for (; d < n; ++d) sum += widen(a[d]) * widen(b[d]);
  for (int l = 0; l < kLanes<C>; ++l) sum += lanes[l];
  return sum;
}

// The mean of each point's values and their squared deviations, probe by probe, so that memory is read in order.
template <class S, class Args>
SVGDX_INLINE void moments(const Args& args, int64_t begin, int64_t end, Compute<S>* mean, Compute<S>* squares) {
  std::fill(mean, mean + (end - begin), Compute<S>(0));
  std::fill(squares, squares + (end - begin), Compute<S>(0));
  for (int64_t v = 0; v < args.probes; ++v) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t at = (v * args.points + n) * args.dim;
      add_to_moments(dot(args.probe + at, args.hvp + at, args.dim), v, mean[n - begin], squares[n - begin]);
    }
  }
}

}  // namespace

template <class S>
void rademacher(const SignArgs<S>& args, int64_t begin, int64_t end) {
  const PhiloxKey key = args.key.loaded();
  for (int64_t block = begin; block < end; ++block) {
    const PhiloxWords words = philox(key, uint64_t(block));
    S* out = args.out + block * kSignsPerBlock;
    const int64_t left = args.count - block * kSignsPerBlock;
    if (left >= kSignsPerBlock) {
      for (int w = 0; w < 4; ++w) {
        for (int i = 0; i < kSignsPerWord; ++i) out[w * kSignsPerWord + i] = sign_of<S>(words.w[w], i);
      }
    } else {
      for (int64_t i = 0; i < left; ++i) out[i] = sign_of<S>(words.w[i / kSignsPerWord], int(i % kSignsPerWord));
    }
  }
}

template <class S>
void probe_trace(const ProbeTraceArgs<S>& args, int64_t begin, int64_t end) {
  moments<S>(args, begin, end, args.mean + begin, args.variance + begin);
  for (int64_t n = begin; n < end; ++n) args.variance[n] = sample_variance(args.variance[n], args.probes);
}

template <class S>
void probe_trace_backward(const ProbeTraceGradArgs<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const Buffer<C> mean(end - begin), squares(end - begin);
  if (args.grad_variance) moments<S>(args, begin, end, mean.get(), squares.get());
  for (int64_t v = 0; v < args.probes; ++v) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t at = (v * args.points + n) * args.dim;
      C grad = args.grad_mean ? mean_grad(args.probes, args.grad_mean[n]) : C(0);
      if (args.grad_variance) {
        const C value = dot(args.probe + at, args.hvp + at, args.dim);
        grad += variance_grad(value, mean.get()[n - begin], args.probes, args.grad_variance[n]);
      }
      for (int64_t d = 0; d < args.dim; ++d) {
        args.grad_probe[at + d] = narrow<S>(grad * widen(args.hvp[at + d]));
        args.grad_hvp[at + d] = narrow<S>(grad * widen(args.probe[at + d]));
      }
    }
  }
}

#define SVGDX_INSTANTIATE(S)                                             \
  template void rademacher(const SignArgs<S>&, int64_t, int64_t);        \
  template void probe_trace(const ProbeTraceArgs<S>&, int64_t, int64_t); \
  template void probe_trace_backward(const ProbeTraceGradArgs<S>&, int64_t, int64_t);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::SVGDX_ISA
