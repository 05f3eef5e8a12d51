// The Gram route (jacobian/gram.h) is taken for a few batch rows at a time.
#pragma once

#include <algorithm>

#include "common/particles.h"
#include "jacobian/args.h"

namespace svgdx {

// Calls body(first, count) for batch rows whose (M, M) matrices have at most `numbers` elements together.
template <class Body>
void for_gram_batches(const Particles& p, int64_t numbers, const Body& body) {
  const int64_t step = std::max<int64_t>(1, numbers / (p.count * p.count));
  for (int64_t first = 0; first < p.batch; first += step) body(first, std::min(step, p.batch - first));
}

// The arguments of `count` batch rows from `first` on.
template <class T>
JacobianArgs<T> batch_rows(JacobianArgs<T> args, int64_t first, int64_t count) {
  const int64_t row = first * args.particles, vector = row * args.dim;
  args.batch = count;
  for (const T** array : {&args.x, &args.score, &args.probe, &args.hvp}) *array += *array ? vector : 0;
  args.bandwidth = args.bandwidth.from(first);
  args.out += args.out ? row : 0;
  return args;
}

template <class T>
JacobianGradArgs<T> batch_rows(JacobianGradArgs<T> args, int64_t first, int64_t count) {
  const int64_t row = first * args.forward.particles, vector = row * args.forward.dim;
  args.forward = batch_rows(args.forward, first, count);
  args.grad_out += row;
  for (T** array : {&args.grad_x, &args.grad_score, &args.grad_probe, &args.grad_hvp}) *array += *array ? vector : 0;
  return args;
}

}  // namespace svgdx
