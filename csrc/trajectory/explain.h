// Finds and reports the bad input on the CPU; kernels only mark what they cannot use.
#pragma once

#include "common/check.h"
#include "trajectory/args.h"

namespace svgdx {

// Raises for the first trajectory that set_time marks as invalid.
inline void explain_trajectories(const char* op, const SetTimeArgs& args) {
  const int64_t dim = args.shape.dim, steps = args.shape.steps;
  for (int64_t b = 0; b < args.shape.batch; ++b) {
    if (args.set_time[b * (dim + 1) + dim]) continue;
    std::vector<bool> is_set(dim, false);
    for (int64_t d = 0; args.initial && d < dim; ++d) {
      const int entry = args.initial[b * dim + d];
      SVGDX_CHECK(entry >= -1 && entry <= 1, op, "initial_state[b=", b, ", d=", d, "] is ", entry,
                  ", but must be -1 (void), 0 or 1");
      is_set[d] = entry != -1;
    }
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t action = args.actions[b * steps + t];
      SVGDX_CHECK(action >= 0 && action < 2 * dim, op, "actions[b=", b, ", t=", t, "] is ", action,
                  ", but must be in [0, ", 2 * dim, ")");
      SVGDX_CHECK(!is_set[action / 2], op, "actions[b=", b, ", t=", t, "] sets location ", action / 2,
                  ", which is already set");
      is_set[action / 2] = true;
    }
  }
}

inline void explain_masked(const char* op, int64_t rows, int64_t width, const bool* mask, const int64_t* actions) {
  for (int64_t n = 0; n < rows; ++n) {
    SVGDX_CHECK(actions[n] >= 0 && actions[n] < width, op, "actions[n=", n, "] is ", actions[n],
                ", but must be in [0, ", width, ")");
    SVGDX_CHECK(mask[n * width + actions[n]], op, "actions[n=", n, "] is ", actions[n], ", which mask forbids");
  }
}

inline void explain_offsets(const char* op, int64_t segments, int64_t rows, const int64_t* offsets) {
  SVGDX_CHECK(offsets[0] == 0, op, "offsets must start at 0, but offsets[0] = ", offsets[0]);
  for (int64_t b = 0; b < segments; ++b) {
    SVGDX_CHECK(offsets[b] <= offsets[b + 1], op, "offsets must not fall, but offsets[", b, "] = ", offsets[b],
                " and offsets[", b + 1, "] = ", offsets[b + 1]);
  }
  SVGDX_CHECK(offsets[segments] == rows, op, "offsets must end at N = ", rows, ", but offsets[", segments,
              "] = ", offsets[segments]);
}

}  // namespace svgdx
