// Prepares a call's particles for the matrix-product kernels: centred positions, [C | q] side by side, scalars, and the
// blocks of the work. The algebra is that of pack.h.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "common/products.h"
#include "field/cpu/expanded.h"

namespace svgdx::SVGDX_ISA {

constexpr int64_t kBlockNumbers = int64_t(1) << 20;  // kernel values held at a time

template <class C>
constexpr ScalarType kType = sizeof(C) == 8 ? ScalarType::Double : ScalarType::Float;

// The plain arrays of one side; null means zeros.
template <class T>
struct Source {
  const T *x, *score, *grad_phi, *grad_trace;
};

// One side (rows or columns) of batch rows [first, first + batches): x centred, [C | q] side by side, scalars.
template <class C>
struct Side {
  int64_t count, dim, width;
  bool gradients;
  Tensor x, cq;
  Buffer<C> n, w, hb, delta;

  Side(const Tensor& like, int64_t batches, int64_t count, int64_t dim, bool gradients)
      : count(count),
        dim(dim),
        width(gradients ? 2 * dim : dim),
        gradients(gradients),
        x(new_empty(like, {batches, count, dim}, kType<C>)),
        cq(new_empty(like, {batches, count, width}, kType<C>)),
        n(batches * count),
        w(batches * count),
        hb(batches * count),
        delta(batches * count) {}

  ExpandedRow<C> row(int64_t i) const {
    const C* const c = data<C>(cq) + i * width;
    return {data<C>(x) + i * dim, c, c + dim, n.get()[i], w.get()[i], hb.get()[i], delta.get()[i]};
  }
  // The columns of batch row k of the call.
  ExpandedColumns<C> columns(int64_t k) const {
    return {w.get() + k * count, hb.get() + k * count, delta.get() + k * count, count};
  }

  template <class T>
  void fill(int64_t row, const Source<T>& s, int64_t source_row, const C* centre, C beta, C h_sign) {
    C* const xr = out<C>(x) + row * dim;
    C* const cr = out<C>(cq) + row * width;
    const int64_t at = source_row * dim;
    for (int64_t d = 0; d < dim; ++d) xr[d] = C(s.x[at + d]) - centre[d];
    if (s.score) {
      for (int64_t d = 0; d < dim; ++d) cr[d] = C(s.score[at + d]) - beta * xr[d];
    } else {
      for (int64_t d = 0; d < dim; ++d) cr[d] = -beta * xr[d];
    }
    const C half = C(0.5) * beta * dot<C>(xr, xr, dim);
    n.get()[row] = half * C(pair::kLog2E);
    w.get()[row] = dot<C>(xr, cr, dim) + half;
    if (!gradients) return;
    const C h = s.grad_trace ? C(s.grad_trace[source_row]) * h_sign : C(0), bh = beta * h;
    C* const qr = cr + dim;
    if (s.grad_phi) {
      for (int64_t d = 0; d < dim; ++d) qr[d] = C(s.grad_phi[at + d]) - bh * xr[d];
    } else {
      for (int64_t d = 0; d < dim; ++d) qr[d] = -bh * xr[d];
    }
    hb.get()[row] = bh;
    // beta g.x + beta h (D + 1 - X) with g = q + beta h x
    delta.get()[row] = beta * dot<C>(xr, qr, dim) + bh * (C(dim + 1) + half);
  }
};

// A call's batch rows [first, first + batches), all computed in C, and the blocks of their work.
template <class T, class C>
struct Part {
  const FieldShape& shape;
  bool self;
  int64_t first, batches;
  std::vector<C> centres;
  Tensor like;
  Side<C> cols, own_rows;

  Part(const FieldShape& shape, bool self, bool gradients, int64_t first, int64_t batches, const double* centre)
      : shape(shape),
        self(self),
        first(first),
        batches(batches),
        centres(centre + first * shape.dim, centre + (first + batches) * shape.dim),
        like(torch::stable::empty({0}, kType<C>)),
        cols(like, batches, shape.cols, shape.dim, gradients),
        own_rows(like, self ? 0 : batches, shape.rows, shape.dim, gradients) {}
  const Side<C>& rows() const { return self ? cols : own_rows; }

  void fill(const Source<T>& col_source, const Source<T>& row_source, const PerBatch<T>& bandwidth, C h_sign) {
    auto side = [&](Side<C>& s, const Source<T>& source) {
      torch::stable::parallel_for(0, batches * s.count, std::max<int64_t>(1, 16384 / s.dim),
                                  [&](int64_t i, int64_t end) {
                                    for (; i < end; ++i) {
                                      const int64_t k = i / s.count, b = first + k;
                                      s.template fill<T>(i, source, first * s.count + i, centres.data() + k * s.dim,
                                                         beta_of<T, C>(bandwidth, b), h_sign);
                                    }
                                  });
    };
    side(cols, col_source);
    if (!self) side(own_rows, row_source);
  }

  // Calls work(k, batches, row, rows): with whole batch rows if their kernel matrices fit, otherwise with parts of one.
  template <class Work>
  void blocks(const Work& work) const {
    const int64_t matrix = shape.rows * shape.cols;
    if (matrix <= kBlockNumbers) {
      const int64_t step = kBlockNumbers / matrix;
      for (int64_t k = 0; k < batches; k += step) work(k, std::min(step, batches - k), 0, shape.rows);
      return;
    }
    const int64_t step = std::max<int64_t>(1, kBlockNumbers / shape.cols);
    for (int64_t k = 0; k < batches; ++k) {
      for (int64_t r = 0; r < shape.rows; r += step) work(k, 1, r, std::min(step, shape.rows - r));
    }
  }

  // Rows [row, row + rows) of batch rows [k, k + n), columns [begin, begin + width) of a side's array.
  static Tensor cut(Tensor t, int64_t k, int64_t n, int64_t row, int64_t rows, int64_t begin, int64_t width) {
    t = torch::stable::narrow(t, 0, k, n);
    t = torch::stable::narrow(t, 1, row, rows);
    return torch::stable::narrow(t, 2, begin, width);
  }
  // Whether the block is a whole square problem, whose Gram matrix is symmetric.
  bool square(int64_t rows) const { return self && rows == shape.rows; }

  // q_i . C_j + C_i . q_j
  Tensor cross_products(int64_t k, int64_t n, int64_t row, int64_t count) const {
    const int64_t dim = shape.dim;
    auto of = [&](const Side<C>& side, int64_t first_row, int64_t rows, int64_t begin) {
      return cut(side.cq, k, n, first_row, rows, begin, dim);
    };
    const Tensor q_c = product_with_transposed(of(rows(), row, count, dim), of(cols, 0, shape.cols, 0));
    const Tensor c_q = square(count) ? torch::stable::transpose(q_c, 1, 2)
                                     : product_with_transposed(of(rows(), row, count, 0), of(cols, 0, shape.cols, dim));
    return torch::stable::subtract(q_c, c_q, -1.0);
  }

  // For every row of a block, calls f(row within the block, batch row of the call, its row, index on the rows' side).
  template <class F>
  void each_row(int64_t k, int64_t n, int64_t row, int64_t rows, const F& f) const {
    const int64_t grain = std::max<int64_t>(1, 8192 / (shape.cols + shape.dim));
    torch::stable::parallel_for(0, n * rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = k + i / rows, r = row + i % rows;
        f(i, at, r, at * shape.rows + r);
      }
    });
  }
};

}  // namespace svgdx::SVGDX_ISA
