// Decides where expanding |x_i - x_j|^2 into products is accurate enough: if all particles are within a few bandwidths
// of their batch row's centre.
#pragma once

#include <algorithm>
#include <vector>

#include "common/cpu/parallel_for.h"
#include "field/cpu/kernels.h"
#include "field/cpu/row.h"
#include "field/pair.h"
#include "memory/buffer.h"

namespace svgdx::SVGDX_ISA {

// Largest log2(e) |x|^2 / (2 sigma^2); the rounding error of log2 kappa grows in proportion to it.
constexpr double kMaxSpread = 64;
// The same for products in double.
constexpr double kMaxWideSpread = 0x1p28;

template <class T>
SVGDX_INLINE T dot(const T* a, const T* b, int64_t n) {
  Vec<T> sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes<T> <= n; i += 4 * kLanes<T>) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[v] += load(a + i + v * kLanes<T>) * load(b + i + v * kLanes<T>);
  }
  T total = horizontal_sum<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

// The mean of each batch row's points; the dimensions are processed in stripes.
template <class T>
std::vector<double> centres_of(const FieldShape& s, const T* points, int64_t count) {
  constexpr int64_t kStripe = 256;
  std::vector<double> centres(s.batch * s.dim, 0.0);
  const int64_t stripes = (s.dim + kStripe - 1) / kStripe;
  cpu::parallel_for(0, s.batch * stripes, 1, [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t b = i / stripes, first = i % stripes * kStripe, last = std::min(first + kStripe, s.dim);
      double* centre = centres.data() + b * s.dim;
      for (int64_t j = 0; j < count; ++j) {
        const T* x = points + (b * count + j) * s.dim;
        for (int64_t d = first; d < last; ++d) centre[d] += double(x[d]);
      }
      for (int64_t d = first; d < last; ++d) centre[d] /= double(count);
    }
  });
  return centres;
}

// Raises `reach` to the largest |x - centre|^2 of each batch row.
template <class T>
void widen(std::vector<double>& reach, const FieldShape& s, const T* points, int64_t count,
           const std::vector<double>& centres) {
  std::vector<double> squared(s.batch * count);
  cpu::parallel_for(0, s.batch * count, std::max<int64_t>(1, 16384 / s.dim), [&](int64_t i, int64_t end) {
    Buffer<T> shifted(s.dim);
    for (; i < end; ++i) {
      const double* centre = centres.data() + i / count * s.dim;
      for (int64_t d = 0; d < s.dim; ++d) shifted.get()[d] = points[i * s.dim + d] - T(centre[d]);
      squared[i] = double(dot<T>(shifted.get(), shifted.get(), s.dim));
    }
  });
  for (int64_t i = 0; i < s.batch * count; ++i) reach[i / count] = std::max(reach[i / count], squared[i]);
}

// Passes runs of batch rows to products(first, count, centres, zero), which compute in the type of zero: T if that is
// accurate, otherwise double; or to plain, which forms no products. The centre is that of the rows if they are the
// particles, else of the columns.
template <class T, class Products, class Plain>
void by_spread(const FieldShape& s, const PerBatch<T>& bandwidth, const T* cols, const T* rows, bool particle_rows,
               const Products& products, const Plain& plain) {
  const std::vector<double> centres = particle_rows ? centres_of<T>(s, rows, s.rows) : centres_of<T>(s, cols, s.cols);
  std::vector<double> reach(s.batch, 0.0);
  widen<T>(reach, s, cols, s.cols, centres);
  if (rows != cols) widen<T>(reach, s, rows, s.rows, centres);
  const auto level = [&](int64_t b) {
    const double spread = 0.5 * beta_of<T, double>(bandwidth, b) * pair::kLog2E * reach[b];
    return spread > kMaxWideSpread ? 2 : spread > kMaxSpread ? 1 : 0;
  };
  for (int64_t b = 0, end = 0; b < s.batch; b = end) {
    const int own = level(b);
    while (end < s.batch && level(end) == own) ++end;
    if (own == 2) {
      plain(b, end - b);
    } else {
      own == 1 ? products(b, end - b, centres.data(), 0.0) : products(b, end - b, centres.data(), T(0));
    }
  }
}

template <class T, class Products>
void by_spread(const FieldArgs<T>& a, const Products& products) {
  by_spread<T>(a.shape, a.bandwidth, a.x, a.query, false, products,
               [&](int64_t b, int64_t n) { field_forward_plain(a, b, n); });
}

template <class T, class Products>
void by_spread(const FieldGradArgs<T>& a, const Products& products) {
  by_spread<T>(a.shape, a.bandwidth, a.col_x, a.row_x, particle_rows(a), products,
               [&](int64_t b, int64_t n) { field_backward_plain(a, b, n); });
}

}  // namespace svgdx::SVGDX_ISA
