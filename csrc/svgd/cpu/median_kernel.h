// One pass over all pairs of particles of one batch row, for the selection of the median distance.
#pragma once

#include "common/isa.h"
#include "svgd/svgd.h"

namespace svgdx {

constexpr int64_t kMedianBins = 2048;
constexpr int64_t kMedianColumns = 32;  // of a work item, a multiple of 2 kLanes

inline int64_t median_blocks(int64_t particles) { return (particles + kMedianColumns - 1) / kMedianColumns; }

// Squared distances in [low, high], both included, are counted by the bits above `shift` of bits(d) - bits(low), and
// kept while there is room: non-negative floating-point numbers order like their bits. Threads add to the same pass.
template <class T>
struct MedianPass {
  int64_t particles, dim;
  const T* x;             // (particles, dim)
  const T* x_transposed;  // (dim, median_blocks * kMedianColumns), NaN behind the last particle
  T low, high;
  int shift;
  int64_t* bins;    // kMedianBins counts, or null: not wanted
  int64_t* below;   // count of squared distances < low
  int64_t* inside;  // count of those in [low, high]
  T* kept;          // the first `capacity` of them, in any order
  int64_t capacity;
};

}  // namespace svgdx

// Does the items [begin, end) of (median_blocks + 1) / 2; item k is the pairs (i, j), i < j, of the columns j of block
// k and of its mirror image, the k-th from the end: the same work for every item.
SVGDX_ISA_DECLARE(template <class T> void median_pass(const MedianPass<T>& pass, int64_t begin, int64_t end);)
