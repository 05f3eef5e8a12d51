// Prepares a call's particles for the matrix-product kernels: centred positions, [C | q] side by side, scalars, and the
// blocks of the work. The algebra is that of pack.h.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "common/cpu/multiply.h"
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

// A dense tensor over a buffer, which outlives it.
template <class C>
struct Array {
  Buffer<C> memory;
  Tensor tensor;

  explicit Array(const Sizes& sizes)
      : memory(count(sizes)),
        tensor(torch::stable::from_blob(memory.get(), sizes, {sizes[1] * sizes[2], sizes[2], 1},
                                        torch::stable::Device(torch::headeronly::DeviceType::CPU), kType<C>)) {}
  C* get() const { return memory.get(); }

 private:
  static int64_t count(const Sizes& sizes) { return sizes[0] * sizes[1] * sizes[2]; }
};

// a (n, R, K) times b (n, K, C), as product() of common/products.h.
template <class C>
Array<C> array_product(const Tensor& a, const Tensor& b, bool symmetric = false) {
  Array<C> result({a.size(0), a.size(1), b.size(2)});
  product_blocks(
      a, b, result.tensor, symmetric,
      [](const Tensor& left, const Tensor& right, const Tensor& block, int64_t) { cpu::multiply(left, right, block); });
  return result;
}

template <class C>
Array<C> array_product_with_transposed(const Tensor& a, const Tensor& b, bool symmetric = false) {
  return array_product<C>(a, torch::stable::transpose(b, 1, 2), symmetric);
}

// One side (rows or columns) of batch rows [first, first + batches): x centred, [C | q] side by side, scalars.
template <class C>
struct Side {
  int64_t count, dim, width;
  bool gradients;
  Array<C> x, cq;
  Buffer<C> n, w, hb, delta;

  Side(int64_t batches, int64_t count, int64_t dim, bool gradients)
      : count(count),
        dim(dim),
        width(gradients ? 2 * dim : dim),
        gradients(gradients),
        x({batches, count, dim}),
        cq({batches, count, width}),
        n(batches * count),
        w(batches * count),
        hb(batches * count),
        delta(batches * count) {}

  ExpandedRow<C> row(int64_t i) const {
    const C* const c = cq.get() + i * width;
    return {x.get() + i * dim, c, c + dim, n.get()[i], w.get()[i], hb.get()[i], delta.get()[i]};
  }
  // The columns of batch row k of the call.
  ExpandedColumns<C> columns(int64_t k) const {
    return {w.get() + k * count, hb.get() + k * count, delta.get() + k * count, count};
  }

  template <class T>
  void fill(int64_t row, const Source<T>& s, int64_t source_row, const C* centre, C beta, C h_sign) {
    C* const xr = x.get() + row * dim;
    C* const cr = cq.get() + row * width;
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
  Side<C> cols, own_rows;

  Part(const FieldShape& shape, bool self, bool gradients, int64_t first, int64_t batches, const double* centre)
      : shape(shape),
        self(self),
        first(first),
        batches(batches),
        centres(centre + first * shape.dim, centre + (first + batches) * shape.dim),
        cols(batches, shape.cols, shape.dim, gradients),
        own_rows(self ? 0 : batches, shape.rows, shape.dim, gradients) {}
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
  Array<C> cross_products(int64_t k, int64_t n, int64_t row, int64_t count) const {
    const int64_t dim = shape.dim;
    auto of = [&](const Side<C>& side, int64_t first_row, int64_t rows, int64_t begin) {
      return cut(side.cq.tensor, k, n, first_row, rows, begin, dim);
    };
    Array<C> sum = array_product_with_transposed<C>(of(rows(), row, count, dim), of(cols, 0, shape.cols, 0));
    C* const sums = sum.get();
    if (square(count)) {
      torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
        for (; begin < end; ++begin) add_transposed(sums + begin * count * count, count);
      });
      return sum;
    }
    const Array<C> other = array_product_with_transposed<C>(of(rows(), row, count, 0), of(cols, 0, shape.cols, dim));
    const C* const others = other.get();
    torch::stable::parallel_for(0, n * count * shape.cols, 16384, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums[i] += others[i];
    });
    return sum;
  }

  // Adds the transpose of a (count, count) matrix to it, by tiles, of which a pair stays in the cache.
  static void add_transposed(C* matrix, int64_t count) {
    constexpr int64_t kTile = 64;
    for (int64_t row = 0; row < count; row += kTile) {
      for (int64_t col = row; col < count; col += kTile) {
        for (int64_t i = row; i < std::min(count, row + kTile); ++i) {
          for (int64_t j = std::max(col, i); j < std::min(count, col + kTile); ++j) {
            matrix[i * count + j] = matrix[j * count + i] = matrix[i * count + j] + matrix[j * count + i];
          }
        }
      }
    }
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
