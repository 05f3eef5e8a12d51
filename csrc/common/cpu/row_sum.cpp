#include "common/row_sum.h"

#include <torch/csrc/stable/ops.h>

namespace svgdx::cpu {
namespace {

// Sums in double and in a fixed order, with several partial sums so that additions need not wait for one another.
template <class T>
double sum(int64_t n, const T* in) {
  constexpr int kPartial = 8;
  double partial[kPartial] = {};
  int64_t i = 0;
  for (; i + kPartial <= n; i += kPartial) {
    for (int k = 0; k < kPartial; ++k) partial[k] += double(in[i + k]);
  }
  for (int k = 0; i < n; ++i, ++k) partial[k] += double(in[i]);
  double total = 0;
  for (const double part : partial) total += part;
  return total;
}

}  // namespace

template <class T, class In>
void row_sum(int64_t batch, RowsOf<In> in, RowsOf<In> more, T scale, PerBatch<T> divisor, T* out, void*) {
  const int64_t grain = 1 + (int64_t(1) << 16) / (in.count + more.count + 1);
  torch::stable::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const double total =
          double(scale) * (sum(in.count, in.data + b * in.count) + sum(more.count, more.data + b * more.count));
      out[b] = T(divisor ? total / double(divisor[b]) : total);
    }
  });
}

template void row_sum(int64_t, RowsOf<float>, RowsOf<float>, float, PerBatch<float>, float*, void*);
template void row_sum(int64_t, RowsOf<double>, RowsOf<double>, float, PerBatch<float>, float*, void*);
template void row_sum(int64_t, RowsOf<float>, RowsOf<float>, double, PerBatch<double>, double*, void*);
template void row_sum(int64_t, RowsOf<double>, RowsOf<double>, double, PerBatch<double>, double*, void*);

}  // namespace svgdx::cpu
