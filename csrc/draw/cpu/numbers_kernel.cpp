// Random numbers, a tile of Philox blocks at a time. Compiled with -ffp-contract=off (CMakeLists.txt): see
// common/rounded.h.
#include "draw/numbers.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>

#include "common/vec.h"
#include "draw/cpu/kernels.h"

namespace svgdx::SVGDX_ISA {
namespace {

typedef uint64_t Wide __attribute__((vector_size(SVGDX_VECTOR_BYTES)));
typedef uint32_t Narrow __attribute__((vector_size(SVGDX_VECTOR_BYTES / 2)));
constexpr int kWideLanes = SVGDX_VECTOR_BYTES / 8;
// Vectors whose rounds run side by side, so that a multiplication need not wait for the one before.
constexpr int kSideBySide = SVGDX_VECTOR_BYTES == 64 ? 4 : 2;

// The products of the lower 32 bits of each lane.
SVGDX_INLINE Wide multiply_low(Wide a, Wide b) {
#if defined(__AVX512F__)
  return (Wide)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);  // GCC 12 warns of the one without a mask
#elif defined(__AVX2__)
  return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (Wide)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// The words of a tile: philox of common/philox.h, with a block in each lane, of which only the lower 32 bits count.
struct TileWords {
  alignas(64) uint32_t w[4][kTileBlocks];

  SVGDX_INLINE void draw(const PhiloxKey& key, int64_t tile) {
    Wide lanes;
    for (int l = 0; l < kWideLanes; ++l) lanes[l] = uint64_t(l);
    const uint64_t first = uint64_t(tile) * kTileBlocks;
    for (int block = 0; block < kTileBlocks; block += kSideBySide * kWideLanes) {
      Wide c[4][kSideBySide];
      for (int v = 0; v < kSideBySide; ++v) {
        c[0][v] = lanes + (first + uint64_t(block + v * kWideLanes));
        c[1][v] = Wide{} + (first >> 32);  // a tile never crosses a multiple of 2^32
        c[2][v] = Wide{} + key.offset;
        c[3][v] = Wide{} + (key.offset >> 32);
      }
      uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
      for (int round = 0; round < 10; ++round) {
        for (int v = 0; v < kSideBySide; ++v) {
          const Wide a = multiply_low(c[0][v], Wide{} + kPhiloxMultiplier0);
          const Wide b = multiply_low(c[2][v], Wide{} + kPhiloxMultiplier1);
          c[0][v] = (b >> 32) ^ c[1][v] ^ uint64_t(k0);
          c[2][v] = (a >> 32) ^ c[3][v] ^ uint64_t(k1);
          c[1][v] = b;
          c[3][v] = a;
        }
        k0 += kPhiloxWeyl0;
        k1 += kPhiloxWeyl1;
      }
      for (int word = 0; word < 4; ++word) {
        for (int v = 0; v < kSideBySide; ++v) {
          const Narrow lower = __builtin_convertvector(c[word][v], Narrow);
          memcpy(w[word] + block + v * kWideLanes, &lower, sizeof lower);
        }
      }
    }
  }
  SVGDX_INLINE PhiloxWords block(int b) const { return {{w[0][b], w[1][b], w[2][b], w[3][b]}}; }
};

// numbers(words, out) computes the kBlockNumbers<S> numbers of a block.
template <class S, class F>
SVGDX_INLINE void fill_tiles(int64_t count, PhiloxKey key, S* out, int64_t begin, int64_t end, F numbers) {
  key = key.loaded();
  TileWords words;
  alignas(64) S tile[kTileNumbers<S>];
  for (int64_t t = begin; t < end; ++t) {
    words.draw(key, t);
    const int64_t left = std::min<int64_t>(kTileNumbers<S>, count - t * kTileNumbers<S>);
    for (int b = 0; b < kTileBlocks; ++b) {
      S own[kBlockNumbers<S>];
      numbers(words.block(b), own);
      for (int j = 0; j < kBlockNumbers<S>; ++j) tile[j * kTileBlocks + b] = own[j];
    }
    memcpy(out + t * kTileNumbers<S>, tile, left * sizeof(S));
  }
}

}  // namespace

template <class S>
void uniform(const NumberArgs<S>& args, int64_t begin, int64_t end) {
  fill_tiles(args.count, args.key, args.out, begin, end,
             [](const PhiloxWords& words, S* out) { uniform_numbers<S>(words, out); });
}

template <class S>
void normal(const NumberArgs<S>& args, int64_t begin, int64_t end) {
  fill_tiles(args.count, args.key, args.out, begin, end,
             [](const PhiloxWords& words, S* out) { normal_numbers<S>(words, out); });
}

void integers(const IntegerArgs& args, int64_t begin, int64_t end) {
  const uint64_t bound = args.bound;
  fill_tiles(args.count, args.key, args.out, begin, end,
             [bound](const PhiloxWords& words, int64_t* out) { integer_numbers(words, bound, out); });
}

#define SVGDX_INSTANTIATE(S)                                     \
  template void uniform(const NumberArgs<S>&, int64_t, int64_t); \
  template void normal(const NumberArgs<S>&, int64_t, int64_t);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::SVGDX_ISA
