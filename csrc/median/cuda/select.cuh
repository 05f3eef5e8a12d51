// Exact lower median of all M^2 distances in O(1) memory per batch entry: a radix select over the bits of the squared
// distances, which, being non-negative, are ordered like their bits. Every pass computes the same distances with the
// same instructions, counts those that match the known prefix by their next bits, and extends the prefix.
#pragma once

#include "field/cuda/pairs.cuh"
#include "median/args.h"

namespace svgdx::cuda {

constexpr int kBins = 2048;

struct MedianState {
  unsigned long long histogram[kBins];
  unsigned long long prefix;  // the bits known so far
  unsigned long long rank;    // of the median among the distances with that prefix
  unsigned long long nan;     // whether some distance is NaN
};

// This pass counts bits [shift, shift + bits) of the squared distances.
struct RadixPass {
  int shift, bits;
  bool last;
};

struct MedianPlan {
  int64_t particles, dim, tiles, chunks;
  Divider by_chunks, by_tiles;
};

struct DistancePairs {
  static constexpr int kRowArrays = 1, kColArrays = 1, kSums = 1, kMicroRows = 4;
  template <class T>
  __device__ static void add(T (&sum)[1], const T (&row)[1], const T (&col)[1]) {
    const T r = row[0] - col[0];
    sum[0] += r * r;
  }
};

__device__ inline unsigned long long bits_of(float v) { return __float_as_uint(v); }
__device__ inline unsigned long long bits_of(double v) {
  return static_cast<unsigned long long>(__double_as_longlong(v));
}
__device__ inline float root_of_bits(unsigned long long bits, float) {
  return sqrtf(__uint_as_float(static_cast<unsigned>(bits)));
}
__device__ inline double root_of_bits(unsigned long long bits, double) {
  return sqrt(__longlong_as_double(static_cast<long long>(bits)));
}

static __global__ void __launch_bounds__(kLargeThreads)
    median_start(MedianState* states, int64_t particles, int64_t first_block) {
  MedianState& state = states[first_block + blockIdx.x];
  for (int bin = threadIdx.x; bin < kBins; bin += blockDim.x) state.histogram[bin] = 0;
  if (threadIdx.x != 0) return;
  const auto m = static_cast<unsigned long long>(particles);
  state.prefix = 0;
  state.rank = (m * m - 1) / 2;
  state.nan = 0;
}

// Counts a thread's pairs in one tile; a run of equal bins, common if distances concentrate, costs one addition.
template <class T>
__device__ inline bool count_pairs(unsigned* histogram, const T (&sums)[4][4][1], int64_t row, int64_t col,
                                   int64_t particles, unsigned long long prefix, const RadixPass& pass) {
  const unsigned mask = (1u << pass.bits) - 1;
  unsigned bin = 0;
  unsigned count = 0;
  bool nan = false;
  SVGDX_UNROLL
  for (int m = 0; m < 4; ++m) {
    const int64_t i = row + Micro<T, 4>::index(tile_ty(), 16, m);
    SVGDX_UNROLL
    for (int n = 0; n < 4; ++n) {
      const int64_t j = col + Micro<T, 4>::index(tile_tx(), 16, n);
      if (i > j || j >= particles) continue;
      const T q = sums[m][n][0];
      nan = nan || q != q;
      const unsigned long long bits = bits_of(q);
      if (bits >> pass.shift >> pass.bits != prefix) continue;
      const unsigned own = static_cast<unsigned>(bits >> pass.shift) & mask;
      if (own != bin) {
        if (count != 0) atomicAdd(&histogram[bin], count);
        bin = own;
        count = 0;
      }
      count += i == j ? 1 : 2;
    }
  }
  if (count != 0) atomicAdd(&histogram[bin], count);
  return nan;
}

// A block handles one tile of rows with every chunks-th tile of columns from the diagonal on. Occupancy is below one
// half, as in pair_sums_kernel: a thread's 16 pairs stay in registers.
template <class T>
__global__ void __launch_bounds__(kLargeThreads, 2)
    median_count(const T* x, MedianState* states, MedianPlan plan, RadixPass pass, bool wide, int64_t first_block) {
  using Chunk = ChunkTile<T, int(kPairCols)>;
  SVGDX_SHARED_PACKS(T, rows, Chunk::kSize);
  SVGDX_SHARED_PACKS(T, cols, Chunk::kSize);
  SVGDX_SHARED(unsigned, histogram, kBins);
  int64_t index = first_block + blockIdx.x;
  const int64_t chunk = plan.by_chunks.split(index);
  const int64_t row_tile = plan.by_tiles.split(index);
  const int64_t row = row_tile * kPairCols;
  MedianState& state = states[index];
  x += index * plan.particles * plan.dim;
  for (int bin = threadIdx.x; bin < kBins; bin += kLargeThreads) histogram[bin] = 0;
  bool nan = false;
  for (int64_t tile = row_tile + chunk; tile < plan.tiles; tile += plan.chunks) {
    const int64_t col = tile * kPairCols;
    T sums[4][4][1] = {};
    for (int64_t d = 0; d < plan.dim; d += Chunk::kDims) {
      __syncthreads();
      load_chunk<Chunk, kPairCols>(rows, x + row * plan.dim + d, plan.dim, plan.particles - row, plan.dim - d, wide);
      load_chunk<Chunk, kPairCols>(cols, x + col * plan.dim + d, plan.dim, plan.particles - col, plan.dim - d, wide);
      __syncthreads();
      add_chunk<DistancePairs, T, Chunk, Chunk>(sums, rows, cols, plan.dim - d);
    }
    nan = count_pairs(histogram, sums, row, col, plan.particles, state.prefix, pass) || nan;
  }
  if (nan) atomicOr(&state.nan, 1ull);
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kLargeThreads) {
    if (histogram[bin] != 0) atomicAdd(&state.histogram[bin], static_cast<unsigned long long>(histogram[bin]));
  }
}

// Where a bin's count stands: one unused element after the bins of each lane of a warp, so that lanes reading theirs in
// step use different banks.
template <int Bins>
__device__ inline int bin_place(int bin) {
  return bin + bin / (Bins / 32);
}

// A warp finds the bin that holds the distance of a rank. Returns true in one lane, which gets the bin and the rank
// among its distances; in none if some distances are in no bin, as NaN is.
template <int Bins, class Count>
__device__ inline bool find_bin(const Count* counts, unsigned long long& rank, int& bin) {
  constexpr int kOwn = Bins / 32;  // bins per lane
  const int lane = threadIdx.x % 32;
  unsigned long long below = 0;  // distances in this lane's bins, then in those of all lanes up to it
  for (int k = 0; k < kOwn; ++k) below += counts[bin_place<Bins>(lane * kOwn + k)];
  const unsigned long long own = below;
  for (int offset = 1; offset < 32; offset *= 2) {
    const unsigned long long other = __shfl_up_sync(kFullWarp, below, offset);
    if (lane >= offset) below += other;
  }
  __syncwarp();
  if (rank < below - own || rank >= below) return false;
  rank -= below - own;
  for (bin = lane * kOwn; rank >= counts[bin_place<Bins>(bin)]; ++bin) rank -= counts[bin_place<Bins>(bin)];
  return true;
}

// One block per batch entry finds the bin of the median and clears the histogram for the next pass.
template <class T>
__global__ void __launch_bounds__(kLargeThreads)
    median_select(MedianState* states, T* out, RadixPass pass, int64_t first_block) {
  SVGDX_SHARED(unsigned long long, counts, kBins + 32);
  const int64_t b = first_block + blockIdx.x;
  MedianState& state = states[b];
  for (int bin = threadIdx.x; bin < kBins; bin += kLargeThreads) {
    counts[bin_place<kBins>(bin)] = state.histogram[bin];
    state.histogram[bin] = 0;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  unsigned long long rank = state.rank;
  int bin = 0;
  const bool has_nan = state.nan != 0;
  const bool holds = find_bin<kBins>(counts, rank, bin);
  if (has_nan) {
    if (threadIdx.x == 0 && pass.last) out[b] = not_a_number<T>();
    return;
  }
  if (!holds) return;
  state.prefix = state.prefix << pass.bits | static_cast<unsigned long long>(bin);
  state.rank = rank;
  if (pass.last) out[b] = root_of_bits(state.prefix, T());
}

// Particles and numbers that one block handles.
constexpr int64_t kSmallParticles = 128;
constexpr int64_t kSmallNumbers = 8320;

inline int64_t small_pitch(int64_t dim) { return dim | 1; }

inline bool is_small(int64_t particles, int64_t dim) {
  return particles <= kSmallParticles && particles * small_pitch(dim) <= kSmallNumbers;
}

// All passes for one batch entry in one block: its particles stay in shared memory, in rows of an odd pitch, so that
// lanes that read one dimension of different rows use different banks.
template <class T>
__global__ void __launch_bounds__(kLargeThreads)
    median_small(const T* x, T* out, int particles, int dim, int pitch, int64_t first_block) {
  constexpr int kBits = 8;  // of a pass: more bins would take one warp longer to search than another pass takes all
  constexpr int kSmallBins = 1 << kBits;
  SVGDX_SHARED(unsigned, histogram, kSmallBins + 32);
  SVGDX_SHARED(unsigned long long, known, 2);  // the prefix, and the rank among the distances with it
  SVGDX_SHARED(int, nan, 1);
  SharedCarver carver;
  SVGDX_CARVE(carver, T, rows, particles * pitch);
  const int64_t b = first_block + blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  x += b * particles * dim;
  for (int e = threadIdx.x; e < particles * dim; e += kLargeThreads) rows[e / dim * pitch + e % dim] = x[e];
  if (threadIdx.x == 0) {
    const auto m = static_cast<unsigned long long>(particles);
    known[0] = 0;
    known[1] = (m * m - 1) / 2;
    nan[0] = 0;
  }
  for (int shift = 8 * int(sizeof(T)) - kBits; shift >= 0; shift -= kBits) {
    for (int bin = threadIdx.x; bin < kSmallBins + 32; bin += kLargeThreads) histogram[bin] = 0;
    __syncthreads();
    const unsigned long long prefix = known[0];
    for (int i = warp; i < particles; i += kLargeThreads / 32) {
      for (int j = i / 32 * 32 + lane; j < particles; j += 32) {
        if (j < i) continue;
        T q = 0;
        for (int d = 0; d < dim; ++d) {
          const T r = rows[i * pitch + d] - rows[j * pitch + d];
          q += r * r;
        }
        if (q != q) atomicOr(&nan[0], 1);
        const unsigned long long number = bits_of(q);
        if (number >> shift >> kBits != prefix) continue;
        const int bin = static_cast<int>(number >> shift) & (kSmallBins - 1);
        atomicAdd(&histogram[bin_place<kSmallBins>(bin)], i == j ? 1u : 2u);
      }
    }
    __syncthreads();
    if (warp == 0) {
      unsigned long long rank = known[1];
      int bin = 0;
      if (find_bin<kSmallBins>(histogram, rank, bin)) {
        known[0] = prefix << kBits | static_cast<unsigned long long>(bin);
        known[1] = rank;
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) out[b] = nan[0] != 0 ? not_a_number<T>() : root_of_bits(known[0], T());
}

inline MedianPlan plan_median(int64_t batch, int64_t particles, int64_t dim) {
  MedianPlan plan{};
  plan.particles = particles;
  plan.dim = dim;
  plan.tiles = ceil_div(particles, kPairCols);
  plan.chunks = std::min(plan.tiles, std::max<int64_t>(1, kTargetBlocks / (batch * plan.tiles)));
  plan.by_chunks = Divider(plan.chunks);
  plan.by_tiles = Divider(plan.tiles);
  return plan;
}

inline int64_t median_scratch_bytes(int64_t batch, int64_t particles, int64_t dim) {
  if (batch * particles * dim == 0 || is_small(particles, dim)) return 0;
  return std::min(batch, kMedianBatches) * int64_t(sizeof(MedianState));
}

// Passes of 11 bits until tens are left: 11 + 11 + 10 bits of a float, 4 * 11 + 2 * 10 of a double.
template <class T>
void median_of_batches(int64_t batch, const MedianPlan& plan, const T* x, T* out, MedianState* states, void* stream) {
  const char* op = "median_distance";
  const bool wide = is_aligned(x, plan.dim);
  launch_blocks(op, batch, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((median_start), grid, kLargeThreads, 0, stream, states, plan.particles, first);
  });
  int shift = 8 * int(sizeof(T));
  while (shift > 0) {
    const int bits = shift % 10 == 0 ? 10 : 11;
    shift -= bits;
    const RadixPass pass{shift, bits, shift == 0};
    launch_blocks(op, batch * plan.tiles * plan.chunks, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((median_count<T>), grid, kLargeThreads, 0, stream, x, states, plan, pass, wide, first);
    });
    launch_blocks(op, batch, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((median_select<T>), grid, kLargeThreads, 0, stream, states, out, pass, first);
    });
  }
}

template <class T>
void median_distance(int64_t batch, int64_t particles, int64_t dim, const T* x, T* out, void* scratch, void* stream) {
  if (batch * particles * dim == 0) return;
  if (is_small(particles, dim)) {
    const int64_t pitch = small_pitch(dim);
    launch_blocks("median_distance", batch, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((median_small<T>), grid, kLargeThreads, carve_bytes<T>(particles * pitch), stream, x, out,
                   static_cast<int>(particles), static_cast<int>(dim), static_cast<int>(pitch), first);
    });
    return;
  }
  auto* states = static_cast<MedianState*>(scratch);
  for (int64_t b = 0; b < batch; b += kMedianBatches) {
    const int64_t count = std::min(kMedianBatches, batch - b);
    median_of_batches(count, plan_median(count, particles, dim), x + b * particles * dim, out + b, states, stream);
  }
}

}  // namespace svgdx::cuda
