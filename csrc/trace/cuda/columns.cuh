// The columns of a row in packs, a pack a lane: neighbours in one 16-byte access where every row begins on such a
// boundary, else single numbers, those of the group's lanes side by side.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/row_group.cuh"

namespace svgdx::cuda {

// How rows are cut: into chunks of a pack for each lane of a group.
struct ColumnPlan {
  RowPlan rows;
  bool wide;
  int64_t width, chunks;
  Divider by_chunks;

  int64_t row_blocks(int64_t count) const { return ceil_div(count, rows.rows()); }
  int64_t chunk_blocks(int64_t count) const { return row_blocks(count * chunks); }
};

// The number of lanes, as a power of two, for a group that works on one chunk.
template <class S>
int chunk_lanes(int64_t width, bool wide) {
  const int64_t items = wide ? width / kPackWidth<S> : width;
  int bits = 0;
  while (bits < 5 && (1 << bits) < items) ++bits;
  return bits;
}

// And for one that works on its whole row: where that is long, the block.
template <class S>
int row_lanes(int64_t width, bool wide) {
  return width > 4 * 32 * kPackWidth<S> ? 7 : chunk_lanes<S>(width, wide);
}

// `wide`: 16-byte accesses are allowed.
template <class S>
ColumnPlan plan_columns(int64_t width, bool wide, int lane_bits) {
  const int64_t chunks = ceil_div(width, int64_t(kPackWidth<S>) << lane_bits);
  return {{lane_bits}, wide, width, chunks, Divider(std::max<int64_t>(1, chunks))};
}

template <class S>
struct Columns {
  static constexpr int kWidth = kPackWidth<S>;
  using Packed = Pack<S, kWidth>;
  int64_t first, width;
  int step;
  bool wide;

  __device__ Columns(const ColumnPlan& plan, int lane, int64_t chunk)
      : first((chunk << plan.rows.lane_bits) * kWidth + (plan.wide ? lane * kWidth : lane)),
        width(plan.width),
        step(plan.wide ? 1 : plan.rows.lanes()),
        wide(plan.wide) {}

  __device__ bool holds(int w) const { return first + w * step < width; }

  // Zeros beyond the row.
  __device__ Packed load(const S* row) const {
    Packed pack{};
    if (wide) {
      if (first < width) pack = *reinterpret_cast<const Packed*>(row + first);
      return pack;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      if (holds(w)) pack.v[w] = row[first + w * step];
    }
    return pack;
  }
  __device__ void store(S* row, const Packed& pack) const {
    if (wide) {
      if (first < width) *reinterpret_cast<Packed*>(row + first) = pack;
      return;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      if (holds(w)) row[first + w * step] = pack.v[w];
    }
  }
};

}  // namespace svgdx::cuda
