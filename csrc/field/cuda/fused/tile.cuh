// Rows and columns of the fused kernel in shared memory.
#pragma once

#include "common/cuda/mma.cuh"
#include "common/cuda/stored.cuh"
#include "common/cuda/tile.cuh"
#include "common/cuda/warp.cuh"
#include "field/cuda/fused/plan.cuh"

namespace svgdx::cuda {

// P: the dimensions, padded to 16, 32, 64 or 128 by zeros.
template <int P>
struct FusedTile {
  static constexpr int kPacks = P / 4;
  // Rows shifted by four banks: lanes (g, t) that read number t of row g, or number g of row 2 t, use every bank once.
  static constexpr int kStride = P + 4;
  static constexpr int kCols = fused_cols(P);
  static constexpr int kStage = 17;  // a row of 16 kernel values and one number, against bank conflicts

  float* rows;        // x of the rows, the first of which is the centre: differences to it are exact if x is far away
  float* x;           // columns
  float* score;       // columns
  float* row_norm;    // |x - centre|^2
  float* col_norm;    // the same; NaN if a number of the column is too large for the expanded sums
  float* col_weight;  // (x - centre) . score
  float* stage;       // per warp: (16, kStage)

  static size_t bytes(int rows) {
    return carve_bytes<float>(size_t(rows) * kStride) + carve_bytes<float>(2 * kCols * kStride) +
           carve_bytes<float>(size_t(rows)) + 2 * carve_bytes<float>(kCols) +
           carve_bytes<float>(kFusedWarps * 16 * kStage);
  }
  __device__ explicit FusedTile(int count) {
    SharedCarver carver;
    SVGDX_CARVE(carver, float, carved_rows, count* kStride);
    SVGDX_CARVE(carver, float, carved_columns, 2 * kCols * kStride);
    SVGDX_CARVE(carver, float, carved_row_norm, count);
    SVGDX_CARVE(carver, float, carved_col_norm, kCols);
    SVGDX_CARVE(carver, float, carved_col_weight, kCols);
    SVGDX_CARVE(carver, float, carved_stage, kFusedWarps * 16 * kStage);
    rows = carved_rows;
    x = carved_columns;
    score = carved_columns + kCols * kStride;
    row_norm = carved_row_norm;
    col_norm = carved_col_norm;
    col_weight = carved_col_weight;
    stage = carved_stage;
  }

  // Reads the four numbers of a pack from a row of `dim`: adjacent ones if wide, otherwise such that those of
  // neighbouring lanes are adjacent. Zeros beyond the row and if it is not there.
  __device__ static void load(float (&v)[4], const StoredFloats& from, int pack, int dim, bool inside, bool wide) {
    Pack<float, 4> packed{};
    if (wide) {
      if (inside && 4 * pack < dim) packed = from.pack<4>(4 * pack);
    } else {
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) {
        if (inside && pack + w * kPacks < dim) packed.v[w] = from[pack + w * kPacks];
      }
    }
    SVGDX_UNROLL
    for (int w = 0; w < 4; ++w) v[w] = packed.v[w];
  }
  __device__ static void store(float* to, const float (&v)[4], int pack, bool wide) {
    if (wide) {
      Pack<float, 4> packed;
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) packed.v[w] = v[w];
      *reinterpret_cast<Pack<float, 4>*>(to + 4 * pack) = packed;
      return;
    }
    SVGDX_UNROLL
    for (int w = 0; w < 4; ++w) to[pack + w * kPacks] = v[w];
  }

  // Reads the same numbers from shared memory.
  __device__ static void read(float (&v)[4], const float* from, int pack, bool wide) {
    if (wide) {
      const Pack<float, 4> packed = *reinterpret_cast<const Pack<float, 4>*>(from + 4 * pack);
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) v[w] = packed.v[w];
      return;
    }
    SVGDX_UNROLL
    for (int w = 0; w < 4; ++w) v[w] = from[pack + w * kPacks];
  }

  // Loads the block's rows and forms their norms. A barrier has to follow.
  __device__ void load_rows(const StoredFloats& from, int count, int all, int dim, bool wide) const {
    for (int e = threadIdx.x; e < all * kPacks; e += kFusedThreads) {
      float v[4];
      load(v, from + int64_t(e / kPacks) * dim, e % kPacks, dim, e / kPacks < count, wide);
      store(rows + e / kPacks * kStride, v, e % kPacks, wide);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < all * kPacks; e += kFusedThreads) {
      float norm = 0;
      float centre[4];
      float v[4];
      read(centre, rows, e % kPacks, true);
      read(v, rows + e / kPacks * kStride, e % kPacks, true);
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) norm += (v[w] - centre[w]) * (v[w] - centre[w]);
      norm = lane_sum(norm, 1, kPacks);
      if (e % kPacks == 0) row_norm[e / kPacks] = norm;
    }
  }

  // Loads columns [0, count), zeros up to kCols, and forms their norms and weights.
  __device__ void load_columns(const StoredFloats& from_x, const StoredFloats& from_score, int count, int dim,
                               float beta, bool wide) const {
    constexpr float kMost = 1e30f;  // of a summand, so that no product overflows
    static_assert(kFusedThreads % kPacks == 0, "a thread's packs are those of the same dimensions");
    float centre[4];
    read(centre, rows, threadIdx.x % kPacks, wide);
    for (int e = threadIdx.x; e < kCols * kPacks; e += kFusedThreads) {
      const int j = e / kPacks;
      const int pack = e % kPacks;
      float vx[4];
      float vs[4];
      load(vx, from_x + int64_t(j) * dim, pack, dim, j < count, wide);
      load(vs, from_score + int64_t(j) * dim, pack, dim, j < count, wide);
      store(x + j * kStride, vx, pack, wide);
      store(score + j * kStride, vs, pack, wide);
      float norm = 0;
      float weight = 0;
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) {
        const float r = vx[w] - centre[w];
        norm += fabsf(vs[w]) + beta * fabsf(r) < kMost ? r * r : not_a_number<float>();
        weight += r * vs[w];
      }
      norm = lane_sum(norm, 1, kPacks);
      weight = lane_sum(weight, 1, kPacks);
      if (pack != 0) continue;
      col_norm[j] = norm;
      col_weight[j] = weight;
    }
  }
};

}  // namespace svgdx::cuda
