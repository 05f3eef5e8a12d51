// Exact median of all pairwise distances in O(M) memory: a random sample of pairs brackets it, then one pass over all
// pairs counts the distances below the bracket and collects those inside. If too many are inside, the pass's histogram
// narrows the bracket 2048-fold; if the bracket missed the median, the search continues in the rest. In the worst case
// this is a radix selection, with 3 passes in float and 6 in double.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "median/cpu/pass_kernel.h"

namespace svgdx::cpu {
namespace {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <class T>
Bits<T> to_bits(T value) {
  Bits<T> bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <class T>
T from_bits(Bits<T> bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The range of bits of squared distances to search, both ends included.
template <class T>
struct Bracket {
  Bits<T> low, high;
};

template <class T>
struct Workspace {
  std::vector<T> x_transposed, sample, kept;
};

// Transposes x to one row per dimension, NaN in the padding. Returns false if x contains a NaN or an infinity.
template <class T>
bool transpose(int64_t particles, int64_t dim, const T* x, std::vector<T>* out) {
  const int64_t stride = median_blocks(particles) * kMedianColumns;
  bool finite = true;
  out->assign(dim * stride, std::numeric_limits<T>::quiet_NaN());
  constexpr int64_t kBlock = 16;  // particles at a time, so that whole cache lines are written
  for (int64_t first = 0; first < particles; first += kBlock) {
    const int64_t last = std::min(first + kBlock, particles);
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t i = first; i < last; ++i) {
        const T value = x[i * dim + d];
        finite &= std::isfinite(value);
        (*out)[d * stride + i] = value;
      }
    }
  }
  return finite;
}

// Partial sums, so that additions need not wait for one another.
template <class T>
T squared_distance(int64_t dim, const T* a, const T* b) {
  constexpr int kPartial = 8;
  T partial[kPartial] = {}, total = 0;
  int64_t d = 0;
  for (; d + kPartial <= dim; d += kPartial) {
    for (int k = 0; k < kPartial; ++k) partial[k] += (a[d + k] - b[d + k]) * (a[d + k] - b[d + k]);
  }
  for (; d < dim; ++d) total += (a[d] - b[d]) * (a[d] - b[d]);
  for (const T part : partial) total += part;
  return total;
}

// A bracket of three standard deviations of the sample quantile around `rank` of `pairs`; misses about once in 400.
template <class T>
Bracket<T> sample_bracket(int64_t particles, int64_t dim, const T* x, int64_t rank, int64_t pairs,
                          std::vector<T>* sample) {
  // Sampling then costs about as much as sorting the pairs inside the bracket, 3 pairs / sqrt(size) of them.
  const int64_t size = std::min(16 * particles, int64_t(std::pow(0.5 * double(pairs), 2.0 / 3)));
  const int64_t margin = int64_t(1.5 * std::sqrt(double(size)));
  uint64_t state = 0;
  const auto below = [&](int64_t n) {  // Knuth's MMIX generator
    state = state * 6364136223846793005u + 1442695040888963407u;
    return int64_t((state >> 33) * uint64_t(n) >> 31);
  };
  sample->resize(size);
  for (T& squared : *sample) {
    const int64_t i = below(particles), other = below(particles - 1);
    squared = squared_distance(dim, x + i * dim, x + (other + (other >= i)) * dim);
  }
  const int64_t center = int64_t(double(rank) / double(pairs) * double(size));
  const auto low = sample->begin() + std::max<int64_t>(center - margin, 0);
  const auto high = sample->begin() + std::min(center + margin, size - 1);
  std::nth_element(sample->begin(), low, sample->end());
  const T low_value = *low;  // read before the next line moves it
  std::nth_element(low, high, sample->end());
  return {to_bits(low_value), to_bits(*high)};
}

template <class T>
int bin_shift(const Bracket<T>& bracket) {
  int shift = 0;
  while (int64_t(bracket.high - bracket.low) >> shift >= kMedianBins) ++shift;
  return shift;
}

template <class T>
void run_pass(const MedianPass<T>& pass, bool parallel) {
  const int64_t items = (median_blocks(pass.particles) + 1) / 2;
  const auto body = [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(median_pass, pass, begin, end); };
  if (parallel) {
    torch::stable::parallel_for(0, items, 1 + (int64_t(1) << 16) / (kMedianColumns * pass.particles * pass.dim), body);
  } else {
    body(0, items);
  }
}

// The squared distance with this rank among the pairs i < j in ascending order.
template <class T>
T select(MedianPass<T> pass, int64_t rank, Bracket<T> bracket, bool want_bins, bool parallel) {
  Bracket<T> rest{0, to_bits(std::numeric_limits<T>::infinity())};
  std::vector<int64_t> bins;
  while (true) {
    int64_t below = 0, inside = 0;
    bins.assign(want_bins ? kMedianBins : 0, 0);
    pass.below = &below;
    pass.inside = &inside;
    pass.bins = want_bins ? bins.data() : nullptr;
    pass.low = from_bits<T>(bracket.low);
    pass.high = from_bits<T>(bracket.high);
    pass.shift = bin_shift(bracket);
    run_pass(pass, parallel);
    if (rank < below) {
      rest.high = bracket.low - 1;
      bracket = rest;
    } else if (rank >= below + inside) {
      rest.low = bracket.high + 1;
      bracket = rest;
    } else if (inside <= pass.capacity) {
      std::nth_element(pass.kept, pass.kept + (rank - below), pass.kept + inside);
      return pass.kept[rank - below];
    } else {
      int64_t bin = 0;
      for (rank -= below; rank >= bins[bin]; ++bin) rank -= bins[bin], below += bins[bin];
      rank += below;
      bracket.low += Bits<T>(bin) << pass.shift;
      if (pass.shift == 0) return from_bits<T>(bracket.low);
      bracket.high = std::min<Bits<T>>(bracket.high, bracket.low + ((Bits<T>(1) << pass.shift) - 1));
      rest = bracket;
    }
  }
}

// The pairs of a problem so small that one pass over them costs less than any preparation; NaN if x is not finite.
constexpr int64_t kFewPairs = 128, kFewNumbers = int64_t(1) << 18;
template <class T>
T select_directly(int64_t particles, int64_t dim, const T* x, int64_t rank) {
  T squared[kFewPairs];
  const T zero = SVGDX_ISA_CALL(median_pairs, particles, dim, x, squared);
  if (!(zero == T(0))) return std::numeric_limits<T>::quiet_NaN();
  if (rank < 0) return 0;
  std::nth_element(squared, squared + rank, squared + particles * (particles - 1) / 2);
  return std::sqrt(squared[rank]);
}

// The first M of the M^2 sorted distances are the particles' distances to themselves, 0; every other one occurs twice.
template <class T>
T median_row(int64_t particles, int64_t dim, const T* x, bool parallel, Workspace<T>* work) {
  const int64_t index = (particles * particles - 1) / 2, pairs = particles * (particles - 1) / 2;
  const int64_t rank = index < particles ? -1 : (index - particles) / 2;
  if (pairs <= kFewPairs && pairs * dim <= kFewNumbers) return select_directly(particles, dim, x, rank);
  if (!transpose(particles, dim, x, &work->x_transposed)) return std::numeric_limits<T>::quiet_NaN();
  if (rank < 0) return 0;
  const int64_t capacity = std::min(pairs, std::max<int64_t>(8192, 64 * particles));
  work->kept.resize(capacity);
  Bracket<T> bracket{0, to_bits(std::numeric_limits<T>::infinity())};
  if (pairs > 512) bracket = sample_bracket(particles, dim, x, rank, pairs, &work->sample);
  MedianPass<T> pass{};
  pass.particles = particles;
  pass.dim = dim;
  pass.x = x;
  pass.x_transposed = work->x_transposed.data();
  pass.kept = work->kept.data();
  pass.capacity = capacity;
  return std::sqrt(select(pass, rank, bracket, pairs > capacity, parallel));
}

}  // namespace

int64_t median_distance_scratch(int64_t, int64_t, int64_t) { return 0; }

template <class T>
void median_distance(int64_t batch, int64_t particles, int64_t dim, const T* x, T* out, void*, void*) {
  const auto rows = [&](int64_t begin, int64_t end, bool parallel) {
    Workspace<T> work;
    for (int64_t b = begin; b < end; ++b) {
      out[b] = median_row(particles, dim, x + b * particles * dim, parallel, &work);
    }
  };
  // Large problems share their pairs among the threads; small ones are distributed as a whole.
  const int64_t cost = particles * particles * dim;
  if (cost > (int64_t(1) << 18)) return rows(0, batch, true);
  torch::stable::parallel_for(0, batch, 1 + (int64_t(1) << 15) / (1 + cost),
                              [&](int64_t begin, int64_t end) { rows(begin, end, false); });
}

template void median_distance(int64_t, int64_t, int64_t, const float*, float*, void*, void*);
template void median_distance(int64_t, int64_t, int64_t, const double*, double*, void*, void*);

}  // namespace svgdx::cpu
