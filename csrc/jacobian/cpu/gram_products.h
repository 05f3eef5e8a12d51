// The matrix products of one problem of the Gram route: in a core's cache if the problem is small, otherwise torch's,
// shared among the threads.
#pragma once

#include <algorithm>

#include "common/buffer.h"
#include "common/products.h"
#include "common/vec_products.h"

namespace svgdx::SVGDX_ISA {

// From one row of a matrix to the next: whole vectors, and no power of two, which would use few of the cache's sets.
template <class C>
int64_t spaced(int64_t count) {
  const int64_t width = padded_to_lanes<C>(count);
  return width * sizeof(C) % 512 == 0 ? width + kLanes<C> : width;
}

// A row-major matrix whose rows are padded to whole vectors with zeros.
template <class C>
class Matrix {
 public:
  Matrix() : Matrix(0, 0) {}
  Matrix(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), stride_(spaced<C>(cols)), data_(rows * spaced<C>(cols)) {
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
      : small_(small), left_(small ? largest * spaced<C>(rows) : 0), right_(small ? largest * spaced<C>(rows) : 0) {}

  // out = or += a times b; `symmetric` asserts that the result is.
  void operator()(Factor<C> a, Factor<C> b, const Matrix<C>& out, bool symmetric = false) const {
    if (!small_) {
      product_blocks(a.tensor(), b.tensor(), Factor<C>{out}.tensor(), symmetric,
                     [](const Tensor& left, const Tensor& right, const Tensor& block, int64_t) {
                       cpu::multiply(left, right, block);
                     });
      return;
    }
    const auto [left, left_stride] = straight(a, left_.get());
    const auto [right, right_stride] = straight(b, right_.get());
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

  bool small_;
  Buffer<C> left_, right_;
};

}  // namespace svgdx::SVGDX_ISA
