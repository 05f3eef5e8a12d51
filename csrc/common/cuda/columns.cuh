// The columns of a row in packs, one pack per lane: adjacent columns in one 16-byte access if every row is 16-byte
// aligned, otherwise single numbers, adjacent across the group's lanes.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/row_group.cuh"

namespace svgdx::cuda {

// How rows are divided: into chunks of one pack per lane of a group.
struct ColumnPlan {
  RowPlan rows;
  bool wide;
  int64_t width, chunks;
  Divider by_chunks;

  int64_t row_blocks(int64_t count) const { return ceil_div(count, rows.rows()); }
  int64_t chunk_blocks(int64_t count) const { return row_blocks(count * chunks); }
};

// The number of lanes, a power of two, for a group that handles one chunk.
template <class S>
int chunk_lanes(int64_t width, bool wide) {
  const int64_t items = wide ? width / kPackWidth<S> : width;
  int bits = 0;
  while (bits < 5 && (1 << bits) < items) ++bits;
  return bits;
}

// The number for a group that handles a whole row; if the row is long, the group is the block.
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

// The plan for groups that each handle a whole row, with 16-byte accesses if rows of all these arrays allow them.
template <class S, class... Arrays>
ColumnPlan plan_rows(int64_t width, Arrays... arrays) {
  const bool wide = all_aligned(width, arrays...);
  return plan_columns<S>(width, wide, row_lanes<S>(width, wide));
}

template <class S>
struct Columns {
  static constexpr int kWidth = kPackWidth<S>;
  int64_t first, width;
  int step;
  bool wide;

  __device__ Columns(const ColumnPlan& plan, int lane, int64_t chunk)
      : first((chunk << plan.rows.lane_bits) * kWidth + (plan.wide ? lane * kWidth : lane)),
        width(plan.width),
        step(plan.wide ? 1 : plan.rows.lanes()),
        wide(plan.wide) {}

  __device__ bool holds(int w) const { return first + w * step < width; }

  // Returns zeros beyond the row.
  __device__ WidePack<S> load(const S* row) const {
    WidePack<S> pack{};
    if (wide) {
      if (first < width) pack = *reinterpret_cast<const WidePack<S>*>(row + first);
      return pack;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      if (holds(w)) pack.v[w] = row[first + w * step];
    }
    return pack;
  }
  // Adds the pack that load returns.
  __device__ void add(WidePack<S>& sum, const S* row) const {
    const WidePack<S> pack = load(row);
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) sum.v[w] += pack.v[w];
  }
  __device__ void store(S* row, const WidePack<S>& pack) const {
    if (wide) {
      if (first < width) *reinterpret_cast<WidePack<S>*>(row + first) = pack;
      return;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      if (holds(w)) row[first + w * step] = pack.v[w];
    }
  }
};

}  // namespace svgdx::cuda
