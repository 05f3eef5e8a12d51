// Batches of matrix products, split into blocks whose size depends only on the shape, one thread per block: if torch
// itself parallelises a product, the order of its additions may depend on the number of threads.
#pragma once

#include <algorithm>

#include "common/backend.h"
#include "common/parallel_blocks.h"
#include "common/tensors.h"
#include SVGDX_BACKEND_HEADER(common, multiply.h)

namespace svgdx {

// Wide results are split by columns, others by rows; work too small to be worth splitting is not split.
struct ProductBlocks {
  int64_t row_step, col_step, down, across;
  ProductBlocks(int64_t rows, int64_t inner, int64_t cols) {
    const bool whole = rows * inner * cols <= int64_t(1) << 19, wide = cols >= 2 * rows;
    row_step = whole || wide ? std::max<int64_t>(1, rows) : rows <= 64 ? 16 : rows <= 256 ? 32 : 128;
    col_step = wide && !whole ? std::max<int64_t>(64, (cols / 8 + 63) / 64 * 64) : std::max<int64_t>(1, cols);
    down = (rows + row_step - 1) / row_step;
    across = (cols + col_step - 1) / col_step;
  }
};

// A block of matrix k of a CPU tensor, sharing its memory. Faster than three views, and detached: autograd is disabled
// only on the calling thread, not on the pool's threads.
inline Tensor part_of(const Tensor& t, int64_t k, int64_t row, int64_t rows, int64_t col, int64_t cols) {
  const Sizes sizes{rows, cols}, strides{t.stride(1), t.stride(2)};
  const int64_t first = k * t.stride(0) + row * strides[0] + col * strides[1];
  char* memory = static_cast<char*>(const_cast<void*>(t.const_data_ptr()));
  return torch::stable::from_blob(memory + first * int64_t(t.element_size()), sizes, strides,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), t.scalar_type());
}

// result (n, R, C) = a (n, R, K) times b (n, K, C) on the CPU, where one(a, b, result, column) computes a block that
// starts at a column. `symmetric` asserts that the result is symmetric: only the blocks on and above the diagonal are
// computed, then mirrored.
template <class One>
void product_blocks(const Tensor& a, const Tensor& b, const Tensor& result, bool symmetric, const One& one) {
  const int64_t n = a.size(0), rows = a.size(1), inner = a.size(2), cols = b.size(2);
  const ProductBlocks blocks(rows, inner, cols);  // never wide when symmetric: then rows = cols
  const int64_t per_matrix = blocks.down * blocks.across, items = n * per_matrix;
  parallel_blocks(items, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t k = i / per_matrix, nth = i % per_matrix;
      // Blocks above the diagonal get shorter further down: pairing long with short ones balances the threads.
      const int64_t block = !symmetric ? nth : nth % 2 == 0 ? nth / 2 : per_matrix - 1 - nth / 2;
      const int64_t row = block / blocks.across * blocks.row_step, height = std::min(blocks.row_step, rows - row);
      const int64_t col = symmetric ? row : block % blocks.across * blocks.col_step;
      const int64_t width = symmetric ? cols - col : std::min(blocks.col_step, cols - col);
      one(part_of(a, k, row, height, 0, inner), part_of(b, k, 0, inner, col, width),
          part_of(result, k, row, height, col, width), col);
      const int64_t next = row + height;
      if (!symmetric || next == rows) continue;
      Tensor below = part_of(result, k, next, rows - next, row, height);
      torch::stable::copy_(below, torch::stable::transpose(part_of(result, k, row, height, next, rows - next), 0, 1));
    }
  });
}

// a (n, R, K) times b (n, K, C).
inline Tensor product(const Tensor& a, const Tensor& b, bool symmetric = false) {
  const Tensor result = new_empty(a, {a.size(0), a.size(1), b.size(2)}, a.scalar_type());
  // Autocast leaves a product with `out` in its dtype, but not aten::matmul.
  if (!a.is_cpu()) return aten("bmm", "out", a, b, result);
  product_blocks(a, b, result, symmetric, [](const Tensor& left, const Tensor& right, const Tensor& block, int64_t) {
    SVGDX_BACKEND::multiply(left, right, block);
  });
  return result;
}

// a (n, R, K) times the transpose of b (n, C, K).
inline Tensor product_with_transposed(const Tensor& a, const Tensor& b, bool symmetric = false) {
  return product(a, torch::stable::transpose(b, 1, 2), symmetric);
}

}  // namespace svgdx
