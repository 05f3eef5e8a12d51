// Matrices that pass through shared memory in chunks, two of which are there: one is copied while the other is used.
#pragma once

#include "common/cuda/async_copy.cuh"
#include "common/cuda/stored.cuh"

namespace svgdx::cuda {

constexpr int kExpandedThreads = 128;
constexpr int kExpandedTile = 64;   // rows and columns of a block
constexpr int kExpandedChunk = 32;  // summands

// Rows of 32 summands, shifted by four banks: lanes (g, t) that read number t of row g use every bank once.
constexpr int kSummandStride = kExpandedChunk + 4;
// 32 summands of rows of 64 numbers, shifted by eight banks: the same for number g of row t.
constexpr int kWideStride = kExpandedTile + 8;

__device__ inline Pack<float, 4> load_four(const float* from) { return *reinterpret_cast<const Pack<float, 4>*>(from); }

// Starts to copy rows [0, Rows) of `Width` numbers, `Step` numbers of `Bytes` at once; zeros beyond `count` and
// `width`. Each thread has its place in the rows, which are as many for all threads.
template <int Bytes, int Step, int Rows, int Width, int Stride>
__device__ inline void start_copies(AsyncCopies& copies, float* to, const char* from, int64_t pitch, int64_t count,
                                    int64_t width) {
  constexpr int kLanes = Width / Step;
  constexpr int kPass = kExpandedThreads / kLanes;
  static_assert(Rows % kPass == 0 || Rows < kPass);
  const int row0 = threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  if (row0 >= Rows) return;
  const int rows = lane * Step < width ? static_cast<int>(min(count, int64_t(Rows))) : 0;
  const char* place = from + (row0 * pitch + lane * Step) * (Bytes / Step);
  float* to_place = to + row0 * Stride + lane * Bytes / int(sizeof(float));
  SVGDX_UNROLL_BY((Step == 4 ? 4 : 2))
  for (int row = row0; row < Rows; row += kPass) {
    const bool inside = row < rows;
    copies.copy<Bytes>(to_place, reinterpret_cast<const float*>(inside ? place : from), inside);
    place += kPass * pitch * (Bytes / Step);
    to_place += kPass * Stride;
  }
}

// Numbers of 16 bits take the first half of their row until widen_rows; single ones are too small for such copies.
template <int Rows, int Width, int Stride>
__device__ inline void start_copies(AsyncCopies& copies, float* to, const StoredFloats& from, int64_t pitch,
                                    int64_t count, int64_t width, bool wide) {
  const char* place = reinterpret_cast<const char*>(from.data);
  if (from.format == Format::kFloat) {
    if (wide) return start_copies<16, 4, Rows, Width, Stride>(copies, to, place, pitch, count, width);
    return start_copies<4, 1, Rows, Width, Stride>(copies, to, place, pitch, count, width);
  }
  if (wide) return start_copies<8, 4, Rows, Width, Stride>(copies, to, place, pitch, count, width);
  SVGDX_UNROLL_BY(1)
  for (int e = threadIdx.x; e < Rows * Width; e += kExpandedThreads) {
    const int row = e / Width;
    const int d = e % Width;
    const bool inside = row < count && d < width;
    reinterpret_cast<uint16_t*>(to + row * Stride)[d] = inside ? (from + (row * pitch + d)).bits() : uint16_t(0);
  }
}

// Converts rows of type S that start_copies has copied, in place: a warp reads its rows before it writes them.
template <class S, int Rows, int Width, int Stride>
__device__ inline void widen_rows(float* tile) {
  constexpr int kPacks = Width / 4;
  constexpr int kPass = kExpandedThreads / kPacks;  // rows of a pass of the block
  constexpr int kPasses = (Rows + kPass - 1) / kPass;
  const int pack = threadIdx.x % kPacks;
  int row = threadIdx.x / kPacks;
  // Rows that half a warp reads are four apart, if there are two, so that it uses every bank once.
  if constexpr (kPacks == 8) row = row % 2 * 4 + row / 2 % 4 + row / 8 * 8;
  float* place = tile + row * Stride;
  Pack<S, 4> stored[kPasses];
  SVGDX_UNROLL
  for (int i = 0; i < kPasses; ++i) {
    if (Rows % kPass == 0 || row + i * kPass < Rows) {
      stored[i] = *reinterpret_cast<const Pack<S, 4>*>(place + i * kPass * Stride + 2 * pack);
    }
  }
  __syncwarp();
  SVGDX_UNROLL
  for (int i = 0; i < kPasses; ++i) {
    Pack<float, 4> numbers;
    SVGDX_UNROLL
    for (int w = 0; w < 4; ++w) numbers.v[w] = to_compute(stored[i].v[w]);
    if (Rows % kPass == 0 || row + i * kPass < Rows) {
      *reinterpret_cast<Pack<float, 4>*>(place + i * kPass * Stride + 4 * pack) = numbers;
    }
  }
}

// Passes over summands [begin, end) in chunks: calls start(copies, at, place) to copy the chunk at `at`, of `size`
// numbers, to one of two places in `tiles` while use(tile, count) computes with the `count` summands in the other,
// after widen(tile) if the particles have a 16-bit format.
template <int Chunk = kExpandedChunk, class Start, class Widen, class Use>
__device__ inline void for_each_chunk(float* tiles, int size, int64_t begin, int64_t end, Format format, Start start,
                                      Widen widen, Use use) {
  if (begin >= end) return;
  AsyncCopies copies;
  int now = 0;
  start(copies, begin, tiles);
  copies.commit();
  for (int64_t at = begin; at < end; at += Chunk) {
    if (at + Chunk < end) start(copies, at + Chunk, tiles + (1 - now) * size);
    copies.commit();
    copies.wait<1>();
    __syncthreads();
    if (format == Format::kBf16) widen(tiles + now * size, Bf16());
    if (format == Format::kFp16) widen(tiles + now * size, Fp16());
    if (format != Format::kFloat) __syncthreads();
    use(tiles + now * size, static_cast<int>(min(end - at, int64_t(Chunk))));
    __syncthreads();
    now = 1 - now;
  }
}

}  // namespace svgdx::cuda
