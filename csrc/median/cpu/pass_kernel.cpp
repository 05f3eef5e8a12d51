#include "median/cpu/pass_kernel.h"

#include "common/vec_products.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace svgdx::SVGDX_ISA {
namespace {

// One bit per lane, from a comparison's all-ones or all-zeros lanes.
template <class T>
SVGDX_INLINE unsigned lane_bits(typename VecType<T>::I mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_movepi32_mask((__m512i)mask);
  return _mm512_movepi64_mask((__m512i)mask);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return unsigned(_mm256_movemask_ps((__m256)mask));
  return unsigned(_mm256_movemask_pd((__m256d)mask));
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4) return unsigned(_mm_movemask_ps((__m128)mask));
  return unsigned(_mm_movemask_pd((__m128d)mask));
#else
  unsigned bits = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) bits |= unsigned(mask[lane] & 1) << lane;
  return bits;
#endif
}

template <class T>
SVGDX_INLINE typename VecTraits<T>::Int bits_of(T value) {
  typename VecTraits<T>::Int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

constexpr int kRows = 4, kVectors = 2;  // per tile

// One thread's share of a pass; `merge` adds it to the pass. Counts are integers, so their order does not matter.
template <class T>
struct Share {
  static constexpr int kBuffer = 512;
  int64_t below = 0;
  int buffered = 0;
  T buffer[kBuffer];
  int64_t bins[kMedianBins];
};

template <class T>
void flush(const MedianPass<T>& pass, Share<T>* share) {
  const int64_t at = __atomic_fetch_add(pass.inside, share->buffered, __ATOMIC_RELAXED);
  for (int k = 0; k < share->buffered && at + k < pass.capacity; ++k) pass.kept[at + k] = share->buffer[k];
  share->buffered = 0;
}

template <class T>
void merge(const MedianPass<T>& pass, Share<T>* share) {
  flush(pass, share);
  __atomic_fetch_add(pass.below, share->below, __ATOMIC_RELAXED);
  for (int64_t bin = 0; bin < kMedianBins && pass.bins != nullptr; ++bin) {
    if (share->bins[bin] != 0) __atomic_fetch_add(pass.bins + bin, share->bins[bin], __ATOMIC_RELAXED);
  }
}

// Counts one vector of squared distances. NaN marks entries that are not pairs; it is neither below nor inside.
template <class T>
SVGDX_INLINE void count(const MedianPass<T>& pass, const Vec<T>& squared, typename VecType<T>::I* below,
                        Share<T>* share) {
  const auto is_below = squared < pass.low;
  *below -= is_below;
  unsigned hits = lane_bits<T>((squared <= pass.high) & ~is_below);
  if (hits == 0) return;
  if (share->buffered + kLanes<T> > Share<T>::kBuffer) flush(pass, share);
  for (; hits != 0; hits &= hits - 1) {
    const T value = reinterpret_cast<const T*>(&squared)[__builtin_ctz(hits)];
    share->buffer[share->buffered++] = value;
    if (pass.bins != nullptr) ++share->bins[(bits_of(value) - bits_of(pass.low)) >> pass.shift];
  }
}

// The pairs of kRows rows from i on with kVectors vectors of columns from j on.
template <class T, int kDim>
SVGDX_INLINE void scan_tile(const MedianPass<T>& pass, int64_t i, int64_t j, typename VecType<T>::I* below,
                            Share<T>* share) {
  const int64_t dim = kDim ? kDim : pass.dim, stride = median_blocks(pass.particles) * kMedianColumns;
  const T* x_i[kRows];
  for (int row = 0; row < kRows; ++row) {
    x_i[row] = pass.x + (i + row < pass.particles ? i + row : pass.particles - 1) * dim;
  }
  const T* x_j = pass.x_transposed + j;
  Vec<T> squared[kRows][kVectors] = {};
  for (int64_t d = 0; d < dim; ++d, x_j += stride) {
    for (int row = 0; row < kRows; ++row) {
      for (int v = 0; v < kVectors; ++v) {
        const Vec<T> r = load(x_j + v * kLanes<T>) - x_i[row][d];
        squared[row][v] += r * r;
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      T* lanes = reinterpret_cast<T*>(&squared[row][v]);
      const int64_t first = j + v * kLanes<T>;
      for (int lane = 0; lane < kLanes<T> && first + lane <= i + row; ++lane) lanes[lane] = __builtin_nan("");
      count(pass, squared[row][v], below, share);
    }
  }
}

// The pairs (i, j), i < j, with columns j in one block.
template <class T, int kDim>
void scan_block(const MedianPass<T>& pass, int64_t block, Share<T>* share) {
  for (int64_t j = block * kMedianColumns; j < (block + 1) * kMedianColumns; j += kVectors * kLanes<T>) {
    if (j >= pass.particles) return;
    typename VecType<T>::I below{};
    for (int64_t i = 0; i < j + kVectors * kLanes<T> && i < pass.particles; i += kRows) {
      scan_tile<T, kDim>(pass, i, j, &below, share);
    }
    for (int lane = 0; lane < kLanes<T>; ++lane) share->below += below[lane];
  }
}

template <class T, int kDim>
void scan_items(const MedianPass<T>& pass, int64_t begin, int64_t end, Share<T>* share) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t mirror = median_blocks(pass.particles) - 1 - item;
    scan_block<T, kDim>(pass, item, share);
    if (mirror != item) scan_block<T, kDim>(pass, mirror, share);
  }
}

template <class T>
T squared_distance(int64_t dim, const T* a, const T* b) {
  Vec<T> sums[2] = {};
  int64_t d = 0;
  const auto add = [&](int64_t at, Vec<T>& sum) {
    const Vec<T> r = load(a + at) - load(b + at);
    sum += r * r;
  };
  for (; d + 2 * kLanes<T> <= dim; d += 2 * kLanes<T>) {
    add(d, sums[0]);
    add(d + kLanes<T>, sums[1]);
  }
  if (d + kLanes<T> <= dim) {
    add(d, sums[0]);
    d += kLanes<T>;
  }
  T rest = 0;
  for (; d < dim; ++d) rest += (a[d] - b[d]) * (a[d] - b[d]);
  return rest + lane_sum<T>(sums[0] + sums[1]);
}

}  // namespace

template <class T>
T median_pairs(int64_t particles, int64_t dim, const T* x, T* squared) {
  const int64_t numbers = particles * dim;
  Vec<T> zeros{};
  int64_t i = 0;
  for (; i + kLanes<T> <= numbers; i += kLanes<T>) zeros += load(x + i) * T(0);
  T zero = lane_sum<T>(zeros);
  for (; i < numbers; ++i) zero += x[i] * T(0);
  for (int64_t one = 0; one < particles; ++one) {
    for (int64_t other = one + 1; other < particles; ++other) {
      *squared++ = squared_distance(dim, x + one * dim, x + other * dim);
    }
  }
  return zero;
}

template <class T>
void median_pass(const MedianPass<T>& pass, int64_t begin, int64_t end) {
  Share<T> share;
  if (pass.bins != nullptr) std::memset(share.bins, 0, sizeof share.bins);
  switch (pass.dim) {
    case 1:
      scan_items<T, 1>(pass, begin, end, &share);
      break;
    case 2:
      scan_items<T, 2>(pass, begin, end, &share);
      break;
    case 3:
      scan_items<T, 3>(pass, begin, end, &share);
      break;
    default:
      scan_items<T, 0>(pass, begin, end, &share);
  }
  merge(pass, &share);
}

template float median_pairs(int64_t, int64_t, const float*, float*);
template double median_pairs(int64_t, int64_t, const double*, double*);
template void median_pass(const MedianPass<float>&, int64_t, int64_t);
template void median_pass(const MedianPass<double>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
