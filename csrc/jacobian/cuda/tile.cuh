// Particles and columns of the Jacobian kernels (dim <= 16, padded to P).
//
// P/2 neighbouring lanes share a particle: lane c owns rows c and c + P/2 of its D x D matrix. For every P/2 columns,
// each lane computes one kernel value, and the lanes exchange them by shuffles. One or more slices of P/2 lanes divide
// the columns among themselves.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/tile.cuh"
#include "common/cuda/warp.cuh"
#include "field/cuda/plan.cuh"
#include "field/pair.h"
#include "jacobian/args.h"

namespace svgdx::cuda {

constexpr int kJacobianThreads = 128;
constexpr int kJacobianCols = 32;

// Resident blocks requested from the compiler: as many as leave each thread registers for two rows without spills.
template <class T, int P>
constexpr int kJacobianBlocks = P * sizeof(T) >= 128  ? 2
                                : P * sizeof(T) >= 64 ? 3
                                                      : 4;

struct JacobianPlan {
  int slices, particles_per_block;
  int64_t tiles;  // blocks per batch entry
  int64_t blocks;
  Divider by_tiles;
};

// `lanes` = P/2. Depends on shapes only, so that the results do.
inline JacobianPlan plan_jacobian(int64_t batch, int64_t particles, int lanes, int most_slices) {
  JacobianPlan plan{};
  int group = lanes;
  auto blocks = [&](int g) { return batch * ceil_div(particles, kJacobianThreads / g); };
  while (group * 2 <= lanes * most_slices && group * 2 <= 32 && group < particles &&
         (particles * group * 2 <= kJacobianThreads || blocks(group) < kTargetBlocks)) {
    group *= 2;
  }
  plan.slices = group / lanes;
  plan.particles_per_block = kJacobianThreads / group;
  plan.tiles = ceil_div(particles, plan.particles_per_block);
  plan.blocks = batch * plan.tiles;
  plan.by_tiles = Divider(plan.tiles);
  return plan;
}

// What a thread handles.
template <int P>
struct JacobianThread {
  static constexpr int kLanes = P / 2;
  int lane, slice, group, local;  // lane within P/2, slice of columns, lanes per particle, particle within the block
  int count;                      // particles in the block
  int64_t batch, first;           // first particle of the block, within the batch entry

  __device__ JacobianThread(const JacobianPlan& plan, int64_t particles, int64_t index) {
    lane = threadIdx.x % kLanes;
    group = kLanes * plan.slices;
    slice = threadIdx.x % group / kLanes;
    local = threadIdx.x / group;
    first = plan.by_tiles.split(index) * plan.particles_per_block;
    batch = index;
    count = static_cast<int>(min(particles - first, int64_t(plan.particles_per_block)));
  }
  __device__ bool active() const { return local < count; }
  __device__ bool leads() const { return active() && slice == 0; }
  __device__ int row(int m) const { return lane + m * kLanes; }
  // Loads the lane's two elements of the particle's row of a (batch, particles, dim) array; zeros outside.
  template <class T>
  __device__ void load_own(T (&own)[2], const T* from, int64_t particles, int dim) const {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      const bool inside = from != nullptr && active() && row(m) < dim;
      own[m] = inside ? from[(batch * particles + first + local) * dim + row(m)] : T(0);
    }
  }
  template <class T>
  __device__ void store_own(const T (&own)[2], T* to, int64_t particles, int dim) const {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      if (leads() && row(m) < dim) to[(batch * particles + first + local) * dim + row(m)] = own[m];
    }
  }
  // Gathers all P elements from the lanes that own them; every lane of the warp must call it.
  template <class T>
  __device__ void gather(T (&all)[P], const T (&own)[2]) const {
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) all[d] = __shfl_sync(kFullWarp, own[d / kLanes], d % kLanes, kLanes);
  }
  // Selects the elements of `all` that the lane owns.
  template <class T>
  __device__ void pick(T (&own)[2], const T (&all)[P]) const {
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) {
      if (d % kLanes == lane) own[d / kLanes] = all[d];
    }
  }
};

// A tile of columns: x as packs for reading whole rows, and x and score as [dimension][column] for single elements,
// with an odd pitch that avoids bank conflicts.
template <class T, int P, int Cols>
struct ColumnTiles {
  using Rows = RowTile<T, P, Cols>;
  using Packed = typename Rows::Packed;
  static constexpr int kPitch = Cols + 1;
  Packed* packs;
  T* x;
  T* s;

  __device__ void clear() const {
    for (int e = threadIdx.x; e < Rows::kSize; e += blockDim.x) packs[e] = Packed{};
    for (int e = threadIdx.x; e < P * kPitch; e += blockDim.x) x[e] = s[e] = 0;
  }
  // Columns from `count` on keep their old, finite values; their kernel value is 0.
  __device__ void load(const T* from_x, const T* from_s, int count, int dim, bool wide) const {
    constexpr int kWidth = Rows::kWidth;
    const int width = wide && kWidth * sizeof(T) == 16 ? kWidth : 1;
    for (RowWalk walk(threadIdx.x, blockDim.x, dim / width); walk.row < count; walk.advance()) {
      const int64_t at = int64_t(walk.row) * dim + walk.d * width;
      if (width == 1) {
        Rows::element(packs, walk.row, walk.d) = x[walk.d * kPitch + walk.row] = from_x[at];
        s[walk.d * kPitch + walk.row] = from_s[at];
        continue;
      }
      const Packed x_pack = *reinterpret_cast<const Packed*>(from_x + at);
      const Packed s_pack = *reinterpret_cast<const Packed*>(from_s + at);
      packs[walk.d * Rows::kStride + walk.row] = x_pack;
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) {
        x[(walk.d * kWidth + w) * kPitch + walk.row] = x_pack.v[w];
        s[(walk.d * kWidth + w) * kPitch + walk.row] = s_pack.v[w];
      }
    }
  }
  // x_i - x_j of all dimensions.
  __device__ void difference(T (&r)[P], const T (&x_i)[P], int j) const {
    SVGDX_UNROLL
    for (int c = 0; c < Rows::kPacks; ++c) {
      const Packed pack = Rows::read(packs, c, j);
      SVGDX_UNROLL
      for (int w = 0; w < Rows::kWidth; ++w) r[c * Rows::kWidth + w] = x_i[c * Rows::kWidth + w] - pack.v[w];
    }
  }
  __device__ T squared_distance(const T (&x_i)[P], int j) const {
    T r[P];
    difference(r, x_i, j);
    T q = 0;
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) q += r[d] * r[d];
    return q;
  }
  // kappa of column j; 0 from `count` on.
  __device__ T kappa(const T (&x_i)[P], int j, int count, T scale) const {
    const T q = squared_distance(x_i, j);
    return j < count ? power_of_two(scale * q) : T(0);
  }
};

}  // namespace svgdx::cuda
