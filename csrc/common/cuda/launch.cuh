// Grid sizes and alignment, needed by every launch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cuda/simt_macros.cuh"
#include "common/hd.h"
#include "common/limits.h"

namespace svgdx::cuda {

// Enough blocks to keep the largest GPUs busy; columns are not split further. A constant, so that results depend on
// shapes only.
constexpr int64_t kTargetBlocks = 512;

// Resident blocks of 128 threads requested from the compiler in kernels with a warp per row: these wait for memory, so
// many warps matter more than many registers.
constexpr int kRowBlocks = 8;

// The same if each thread holds several packs: their loads are independent and hide the latency in place of warps.
constexpr int kPackBlocks = 4;

constexpr SVGDX_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr SVGDX_HD int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

template <class T>
bool is_aligned(const T* p, int64_t row_elements) {
  constexpr int64_t kPack = 16 / int64_t(sizeof(T));
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && row_elements % kPack == 0;
}

// Whether rows of `width` elements of all these arrays allow 16-byte accesses.
template <class... Arrays>
bool all_aligned(int64_t width, const Arrays&... arrays) {
  return (is_aligned(arrays, width) && ...);
}

// Calls launch(grid, first_block) as often as the grid limit requires; does nothing for zero blocks.
template <class F>
void launch_blocks(const char* op, int64_t blocks, F launch) {
  for (int64_t first = 0; first < blocks; first += kMaxGrid) {
    launch(static_cast<unsigned>(std::min(kMaxGrid, blocks - first)), first);
    SVGDX_LAUNCH_CHECK(op);
  }
}

}  // namespace svgdx::cuda
