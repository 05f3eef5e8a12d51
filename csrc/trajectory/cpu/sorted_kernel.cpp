// Rows of one trajectory whose locations are sorted by the step that sets them: what is valid is one range of columns.
#include "trajectory/cpu/kernels.h"
#include "trajectory/cpu/row.h"

namespace svgdx::SVGDX_ISA {
namespace {

// Replaces n logits by -upstream softmax.
template <class C>
void softmax_grad(C* values, int64_t n, C normalizer, C upstream) {
  const Vec<C> scale = splat(kLog2e<C>), shift = splat(normalizer), factor = splat(-upstream);
  const auto grad = [&](Vec<C> v) { return factor * exp2_nonpositive<C>((v - shift) * scale); };
  int64_t i = 0;
  for (; i + kLanes<C> <= n; i += kLanes<C>) store(values + i, grad(load(values + i)));
  if (i == n) return;
  const Vec<C> last = grad(load_some(values + i, n - i));
  memcpy(values + i, &last, (n - i) * sizeof(C));
}

template <class C>
void add(int64_t n, const C* __restrict values, C* __restrict sums) {
  for (int64_t i = 0; i < n; ++i) sums[i] += values[i];
}

// Calls f(row in its own order, sorted row).
template <class F>
void each_row(int64_t dim, const int64_t* order, const F& f) {
  for (int64_t k = 0; k < dim; ++k) {
    f(2 * order[k], 2 * k);
    f(2 * order[k] + 1, 2 * k + 1);
    f(2 * dim + order[k], 2 * dim + k);
  }
}

}  // namespace

template <class C>
void sorted_rows_backward(const SortedRows<C>& args) {
  const int64_t middle = 2 * args.dim - args.column;  // where the logits of P_B begin
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t t = args.first + r, set = args.initially_set + t;
    const C* normalizers = args.normalizers + 2 * t;
    C* values = args.values + r * args.width;
    const int64_t begin = t < args.steps && args.grad_log_pf != 0 ? 2 * set - args.column : middle;
    const int64_t end = t > 0 && args.grad_log_pb != 0 ? middle + set : middle;
    std::fill(values, values + begin, C(0));
    std::fill(values + end, values + args.width, C(0));
    if (begin < middle) {
      softmax_grad(values + begin, middle - begin, normalizers[0], args.grad_log_pf);
      values[begin + args.actions[t] % 2] += args.grad_log_pf;
    }
    if (middle < end) {
      softmax_grad(values + middle, end - middle, normalizers[1], args.grad_log_pb);
      values[end - 1] += args.grad_log_pb;
    }
    add(args.width, values, args.sums);
  }
}

template <class C>
void sort_rows(int64_t dim, int64_t width, const int64_t* order, const C* in, C* sorted) {
  each_row(dim, order,
           [&](int64_t row, int64_t place) { memcpy(sorted + place * width, in + row * width, width * sizeof(C)); });
}

template <class C>
void add_sorted_rows(int64_t dim, int64_t width, const int64_t* order, const C* sorted, C* out) {
  each_row(dim, order, [&](int64_t row, int64_t place) { add(width, sorted + place * width, out + row * width); });
}

#define SVGDX_INSTANTIATE(C)                                               \
  template void sorted_rows_backward(const SortedRows<C>&);                \
  template void sort_rows(int64_t, int64_t, const int64_t*, const C*, C*); \
  template void add_sorted_rows(int64_t, int64_t, const int64_t*, const C*, C*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::SVGDX_ISA
