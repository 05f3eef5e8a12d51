// Rows of ragged trajectories with an explicit mask.
#include "memory/buffer.h"
#include "trajectory/cpu/kernels.h"
#include "trajectory/cpu/row.h"

namespace svgdx::SVGDX_ISA {
namespace {

// Copies n logits to out (padded), with -inf for masked entries; returns the largest.
template <class S, class C>
C fill_allowed(const S* logits, const bool* mask, int64_t n, C* out) {
  for (int64_t i = 0; i < n; ++i) {
    const C v = widen(logits[i]);
    out[i] = mask[i] ? v : kMinusInf<C>;
  }
  std::fill(out + n, out + padded<C>(n), kMinusInf<C>);
  Vec<C> most = splat(kMinusInf<C>);
  for (int64_t i = 0; i < n; i += kLanes<C>) most = larger<C>(load(out + i), most);
  return horizontal_max<C>(most);
}

bool is_allowed(const bool* mask, int64_t width, int64_t action) {
  return action >= 0 && action < width && mask[action];
}

}  // namespace

template <class S>
void masked_rows(const MaskedRows<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  Buffer<C> row(padded<C>(args.width));
  for (int64_t i = begin; i < end; ++i) {
    const bool* mask = args.mask + i * args.width;
    if (!*args.valid || !is_allowed(mask, args.width, args.action[i])) {
      args.normalizers[i] = args.row_log_prob[i] = std::numeric_limits<C>::quiet_NaN();
      continue;
    }
    const C most = fill_allowed(args.logits + i * args.width, mask, args.width, row.get());
    args.normalizers[i] = log_sum_exp(row.get(), args.width, most, args.logits + (i + 1) * args.width);
    args.row_log_prob[i] = row.get()[args.action[i]] - args.normalizers[i];
  }
}

template <class S>
void masked_rows_backward(const MaskedRowsGrad<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  Buffer<C> row(padded<C>(args.width));
  const int64_t* ends = args.offsets + 1;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = std::upper_bound(ends, ends + args.segments, i) - ends;
    const bool* mask = args.mask + i * args.width;
    S* grad = args.grad_logits + i * args.width;
    if (b == args.segments || !is_allowed(mask, args.width, args.action[i])) {
      std::fill(grad, grad + args.width, narrow<S>(std::numeric_limits<C>::quiet_NaN()));
      continue;
    }
    fill_allowed(args.logits + i * args.width, mask, args.width, row.get());
    log_softmax_grad_row(row.get(), args.width, args.normalizers[i], args.grad[b], args.action[i],
                         args.logits + (i + 1) * args.width, grad);
    write_row(row.get(), args.width, grad);
  }
}

#define SVGDX_INSTANTIATE(S)                                         \
  template void masked_rows(const MaskedRows<S>&, int64_t, int64_t); \
  template void masked_rows_backward(const MaskedRowsGrad<S>&, int64_t, int64_t);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::SVGDX_ISA
