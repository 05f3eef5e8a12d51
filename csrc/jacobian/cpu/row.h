// The particles that a kernel of the Jacobian ops has in its lanes, and those that it pairs them with.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/beta.h"
#include "field/pair.h"
#include "jacobian/cpu/kernels.h"
#include "jacobian/cpu/lanes.h"
#include "memory/buffer.h"

namespace svgdx::SVGDX_ISA {

// 1/sigma^2; log2(kappa) = exponent |r|^2; beta/M
template <class T>
struct JacobianNumbers {
  T beta, exponent, scale;

  JacobianNumbers(const JacobianArgs<T>& args, int64_t batch) {
    const double sigma = double(args.bandwidth[batch]);
    const double wide = std::min(1 / (sigma * sigma), double(kLargestBeta<T>));
    beta = T(wide), exponent = T(-0.5 * pair::kLog2E * wide), scale = T(wide / double(args.particles));
  }
};

// One batch row, whose particles `first`, first + 1, ... are in the lanes.
template <class T>
struct JacobianRow : JacobianNumbers<T> {
  int64_t offset;  // of the row's first particle among all rows' particles
  int64_t particles;
  int dim;
  const T *x, *score;

  JacobianRow(const JacobianArgs<T>& args, int64_t batch)
      : JacobianNumbers<T>(args, batch),
        offset(batch * args.particles),
        particles(args.particles),
        dim(int(args.dim)),
        x(args.x + offset * args.dim),
        score(args.score + offset * args.dim) {}

  int lanes(int64_t first) const { return int(std::min<int64_t>(kLanes<T>, particles - first)); }
  int64_t index(int64_t first, int lane) const { return offset + first + lane; }
  int64_t batch(int) const { return offset / particles; }
  // The lanes' rows of x or score.
  SVGDX_INLINE void own(const T* numbers, int64_t first, Vec<T>* out) const {
    load_lanes(numbers, particles, dim, first, out);
  }
  // The lanes' rows of an array over all particles, and the reverse.
  SVGDX_INLINE void load(const T* rows, int64_t width, int64_t first, Vec<T>* out) const {
    load_lanes(rows + offset * width, particles, width, first, out);
  }
  SVGDX_INLINE void store(const Vec<T>* in, int64_t width, int64_t first, T* rows) const {
    store_lanes(in, particles, width, first, rows + offset * width);
  }
  // kappa of the lanes' particles with particle j; 0 in the lane of j itself.
  SVGDX_INLINE Vec<T> kappa(Vec<T> squared_distance, int64_t first, int64_t j) const {
    Vec<T> kappa = exp2_nonpositive<T>(squared_distance * this->exponent);
    if (j >= first && j < first + kLanes<T>) kappa[j - first] = 0;
    return kappa;
  }
};

// Particle `first` of as many batch rows as there are lanes; lanes past the last row repeat it.
template <class T>
class JacobianGroup {
 public:
  int64_t particles;
  int dim;
  const Vec<T>*x, *score;
  Vec<T> beta, exponent, scale;

  // `memory` takes the particles' numbers, 2 M D vectors.
  JacobianGroup(const JacobianArgs<T>& args, int64_t group, Vec<T>* memory)
      : particles(args.particles),
        dim(int(args.dim)),
        x(memory),
        score(memory + particles * dim),
        first_batch_(group * kLanes<T>),
        count_(int(std::min<int64_t>(kLanes<T>, args.batch - first_batch_))) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      const JacobianNumbers<T> numbers(args, batch(lane));
      beta[lane] = numbers.beta, exponent[lane] = numbers.exponent, scale[lane] = numbers.scale;
    }
    for (int64_t j = 0; j < particles; ++j) {
      load(args.x, dim, j, memory + j * dim);
      load(args.score, dim, j, memory + (particles + j) * dim);
    }
  }

  int lanes(int64_t) const { return count_; }
  int64_t index(int64_t first, int lane) const { return batch(lane) * particles + first; }
  int64_t batch(int lane) const { return first_batch_ + std::min(lane, count_ - 1); }
  SVGDX_INLINE void own(const Vec<T>* numbers, int64_t first, Vec<T>* out) const {
    std::copy_n(numbers + first * dim, dim, out);
  }
  SVGDX_INLINE void load(const T* rows, int64_t width, int64_t first, Vec<T>* out) const {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      const T* row = rows + index(first, lane) * width;
      for (int64_t d = 0; d < width; ++d) reinterpret_cast<T*>(out + d)[lane] = row[d];
    }
  }
  SVGDX_INLINE void store(const Vec<T>* in, int64_t width, int64_t first, T* rows) const {
    for (int lane = 0; lane < count_; ++lane) {
      T* row = rows + index(first, lane) * width;
      for (int64_t d = 0; d < width; ++d) row[d] = reinterpret_cast<const T*>(in + d)[lane];
    }
  }
  SVGDX_INLINE Vec<T> kappa(Vec<T> squared_distance, int64_t first, int64_t j) const {
    return j == first ? Vec<T>{} : exp2_nonpositive<T>(squared_distance * exponent);
  }

 private:
  int64_t first_batch_;
  int count_;
};

// A number that all lanes share, or one for each, as a vector.
template <class T, class Number>
SVGDX_INLINE Vec<T> in_lanes(Number value) {
  if constexpr (std::is_same_v<Number, T>) {
    return splat(value);
  } else {
    return value;
  }
}

// Calls body(row, first) for every vector of particles in the work items [begin, end).
template <class T, class Body>
SVGDX_INLINE void for_each_vector(const JacobianArgs<T>& args, int64_t begin, int64_t end, const Body& body) {
  const int64_t blocks = jacobian_blocks(args.particles);
  for (int64_t item = begin; item < end; ++item) {
    const JacobianRow<T> row(args, item / blocks);
    const int64_t start = item % blocks * kJacobianBlock;
    const int64_t stop = std::min(start + kJacobianBlock, args.particles);
    for (int64_t first = start; first < stop; first += kLanes<T>) body(row, first);
  }
}

}  // namespace svgdx::SVGDX_ISA
