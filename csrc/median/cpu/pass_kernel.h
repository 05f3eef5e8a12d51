// One pass over all pairs of particles of a batch row, for the selection of the median distance.
#pragma once

#include "common/isa.h"
#include "median/args.h"

namespace svgdx {

constexpr int64_t kMedianBins = 2048;
constexpr int64_t kMedianColumns = 32;  // per work item, a multiple of 2 kLanes

inline int64_t median_blocks(int64_t particles) { return (particles + kMedianColumns - 1) / kMedianColumns; }

// Squared distances d in [low, high], both included, are counted by the bits of bits(d) - bits(low) above `shift`, and
// stored while there is room; non-negative floating-point numbers are ordered like their bits. All threads add to the
// same pass.
template <class T>
struct MedianPass {
  int64_t particles, dim;
  const T* x;             // (particles, dim)
  const T* x_transposed;  // (dim, median_blocks * kMedianColumns), NaN past the last particle
  T low, high;
  int shift;
  int64_t* bins;    // kMedianBins counts; null if not requested
  int64_t* below;   // number of squared distances < low
  int64_t* inside;  // number of those in [low, high]
  T* kept;          // the first `capacity` of them, in any order
  int64_t capacity;
};

}  // namespace svgdx

// Processes the items [begin, end) of (median_blocks + 1) / 2. Item k consists of the pairs (i, j), i < j, with columns
// j in block k or in its mirror image, the k-th block from the end, so that every item is the same amount of work.
// median_pairs writes the squared distances of all pairs i < j and returns the sum of 0 x over all numbers x, which is
// 0 if all are finite.
SVGDX_ISA_DECLARE(template <class T> T median_pairs(int64_t particles, int64_t dim, const T* x, T* squared);
                  template <class T> void median_pass(const MedianPass<T>& pass, int64_t begin, int64_t end);)
