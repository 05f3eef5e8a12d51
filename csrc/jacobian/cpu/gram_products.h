// The matrix products of one problem of the Gram route: in a core's cache if the problem is small, otherwise with a
// packed factor, or torch's if that is large, shared among the threads.
#pragma once

#include <algorithm>

#include "common/cpu/product_kernel.h"
#include "common/products.h"
#include "common/vec_symmetric.h"
#include "memory/buffer.h"

namespace svgdx::SVGDX_ISA {

// From one row of a matrix to the next: whole vectors, and no power of two, which would use few of the cache's sets.
template <class C>
int64_t spaced(int64_t count) {
  const int64_t width = padded_to_lanes<C>(count);
  return width * sizeof(C) % 512 == 0 ? width + kLanes<C> : width;
}

// A row-major matrix whose rows are padded to whole vectors with zeros, in memory for whole blocks of rows.
template <class C>
class Matrix {
 public:
  Matrix() : Matrix(0, 0) {}
  Matrix(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), stride_(spaced<C>(cols)), data_(padded_to_lanes<C>(rows) * spaced<C>(cols)) {
    for (int64_t r = 0; r < rows; ++r) std::fill((*this)[r] + cols, (*this)[r] + stride_, C(0));
  }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t stride() const { return stride_; }
  C* operator[](int64_t row) const { return data_.get() + row * stride_; }

 private:
  int64_t rows_, cols_, stride_;
  Buffer<C> data_;
};

// A factor of a product, possibly transposed.
template <class C>
struct Factor {
  const Matrix<C>& matrix;
  bool transposed = false;
  int64_t rows() const { return transposed ? matrix.cols() : matrix.rows(); }
  int64_t cols() const { return transposed ? matrix.rows() : matrix.cols(); }
  // Shares the matrix's memory.
  Tensor tensor() const {
    const int64_t stride = matrix.stride(), size = matrix.rows() * stride;
    const Sizes sizes{1, rows(), cols()};
    const Sizes strides = transposed ? Sizes{size, 1, stride} : Sizes{size, stride, 1};
    return torch::stable::from_blob(matrix[0], sizes, strides,
                                    torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                    sizeof(C) == 8 ? ScalarType::Double : ScalarType::Float);
  }
};

template <class C>
class GramProducts {
 public:
  // `largest`: of the factors' sizes.
  GramProducts(bool small, int64_t rows, int64_t largest)
      : small_(small),
        packs_(!small && SVGDX_VECTOR_BYTES > 16 && std::max(rows, largest) <= kMostPacked),
        left_(small ? largest * spaced<C>(rows) : 0),
        right_(small || packs_ ? std::max(largest * spaced<C>(rows), rows * spaced<C>(largest)) : 0) {}

  // out = or += a times b; `symmetric` asserts that the result is.
  void operator()(Factor<C> a, Factor<C> b, const Matrix<C>& out, bool symmetric = false) const {
    if (packs_) return packed(a, b, out, symmetric);
    if (!small_) {
      product_blocks(a.tensor(), b.tensor(), Factor<C>{out}.tensor(), symmetric,
                     [](const Tensor& left, const Tensor& right, const Tensor& block, int64_t) {
                       cpu::multiply(left, right, block);
                     });
      return;
    }
    const auto [left, left_stride] = straight(a, left_.get());
    const auto [right, right_stride] = straight(b, right_.get());
    if (symmetric) {
      return small_square<C>(a.rows(), a.cols(), left, left_stride, right, right_stride, out[0], out.stride());
    }
    small_product<C>(a.rows(), a.cols(), padded_to_lanes<C>(b.cols()), left, left_stride, right, right_stride, out[0],
                     out.stride());
  }

  // Calls f(i) for every row, shared among the threads if the problem is large.
  template <class F>
  void each_row(int64_t rows, const F& f) const {
    if (small_) {
      for (int64_t i = 0; i < rows; ++i) f(i);
      return;
    }
    torch::stable::parallel_for(0, rows, 1 + (int64_t(1) << 14) / rows, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) f(i);
    });
  }

 private:
  static std::pair<const C*, int64_t> straight(Factor<C> factor, C* memory) {
    const Matrix<C>& m = factor.matrix;
    if (!factor.transposed) return {m[0], m.stride()};
    const int64_t stride = spaced<C>(m.rows());
    small_transpose<C>(m.rows(), m.cols(), m[0], m.stride(), memory, stride);
    return {memory, stride};
  }

  // The second factor is packed by all threads, and then multiplied by blocks of rows.
  void packed(Factor<C> a, Factor<C> b, const Matrix<C>& out, bool symmetric) const {
    const int64_t rows = a.rows(), inner = a.cols(), cols = b.cols(), stride = b.matrix.stride();
    const int64_t down = b.transposed ? 1 : stride, across = b.transposed ? stride : 1;
    C* const factor = right_.get();
    blocks(cols, 4 * kPanel, inner, [&](int64_t first, int64_t count) {
      pack_factor<C>(inner, count, b.matrix[0] + first * across, down, across, factor + first * inner);
    });
    const int64_t step = rows <= 256 ? 48 : 96, a_stride = a.matrix.stride();  // multiples of the kernel's rows
    const int64_t a_row = a.transposed ? 1 : a_stride, a_inner = a.transposed ? a_stride : 1;
    blocks(rows, step, inner * cols, [&](int64_t row, int64_t count) {
      const int64_t first = symmetric ? row / kPanel * kPanel : 0;
      PackedProduct<C> args{count, inner,   cols - first,           a.matrix[0] + row * a_row,
                            a_row, a_inner, factor + first * inner, nullptr,
                            C(1),  false,   out[row] + first};
      args.out_stride = out.stride();
      packed_product<C>(args);
    });
    if (!symmetric) return;
    blocks(rows, step, rows, [&](int64_t row, int64_t count) {
      for (int64_t c = row + count; c < rows; c += kLanes<C>) mirror(out, row, count, c);
    });
  }

  // Copies `count` rows from `row` on, a multiple of kLanes, of one vector of columns to where they mirror.
  static void mirror(const Matrix<C>& matrix, int64_t row, int64_t count, int64_t column) {
    const int64_t last = std::min<int64_t>(kLanes<C>, matrix.rows() - column);
    for (int64_t r = row; r < row + count; r += kLanes<C>) {
      Vec<C> block[kLanes<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<C>; ++i) block[i] = load(matrix[r + i] + column);
      transpose_lanes<C, kLanes<C> / 2>(block);
      for (int i = 0; i < last; ++i) store(matrix[column + i] + r, block[i]);
    }
  }

  // Calls f(first, count) for blocks of [0, total), among the threads; `work` is that of one item.
  template <class F>
  static void blocks(int64_t total, int64_t step, int64_t work, const F& f) {
    const int64_t count = (total + step - 1) / step, grain = 1 + (int64_t(1) << 14) / (step * work);
    torch::stable::parallel_for(0, count, grain, [&](int64_t block, int64_t end) {
      for (; block < end; ++block) f(block * step, std::min(step, total - block * step));
    });
  }

  // Up to these rows and columns a packed factor is faster than torch's products, which pack both in every block.
  static constexpr int64_t kMostPacked = 1024;
  // A multiple of the columns of a packed factor's panels.
  static constexpr int64_t kPanel = 32;

  bool small_, packs_;
  Buffer<C> left_, right_;
};

}  // namespace svgdx::SVGDX_ISA
