// What the sampling ops and rollouts share: the checks of a draw's arguments, and the report of bad input.
#pragma once

#include <cfloat>

#include "common/tensors.h"
#include "draw/args.h"

namespace svgdx {

inline void check_draw(const char* op, double temperature, double epsilon) {
  SVGDX_CHECK(std::isfinite(temperature) && temperature > 0, op, "temperature must be positive and finite, but is ",
              temperature);
  SVGDX_CHECK(epsilon >= 0 && epsilon <= 1, op, "epsilon must be in [0, 1], but is ", epsilon);
}

// The factor that turns logits into exponents of two. It must stay finite for temperatures near zero, or zero times it
// would be NaN.
inline float draw_scale(double temperature) {
  return float(std::min(1.4426950408889634 / temperature, double(FLT_MAX)));
}

// Reports the first row without a valid draw; kernels only mark it.
template <class S>
void explain_sample(const char* op, const SampleArgs<S>& args) {
  for (int64_t b = 0; b < args.batch; ++b) {
    if (args.action[b] >= 0) continue;
    int64_t valid = 0;
    for (int64_t d = 0; d < args.dim; ++d) {
      const int entry = args.state[b * args.dim + d];
      SVGDX_CHECK(entry >= -1 && entry <= 1, op, "state[b=", b, ", d=", d, "] is ", entry,
                  ", but must be -1 (void), 0 or 1");
      valid += (entry == -1) == args.forward;
    }
    SVGDX_CHECK(valid > 0, op, "state[b=", b, "] has no ", args.forward ? "void" : "set", " entry");
    fail(op, "logits[b=", b, "] must be less than infinity, not NaN and not all -infinity, where an action is valid");
  }
}

}  // namespace svgdx
