// The masks of a GFlowNet's policy and the gradient of a masked log-softmax, shared by both backends.
#pragma once

#include <cstdint>

#include "common/hd.h"

namespace svgdx {

// Whether the forward actions 2 location + bit are valid at s_t.
SVGDX_HD bool is_void_at(int32_t set_time, int64_t t) { return set_time >= t; }
// Whether the backward action `location` is valid at s_t.
SVGDX_HD bool is_set_at(int32_t set_time, int64_t t) { return set_time < t; }

// d log softmax(l)_a / dl_e = [e = a] - softmax(l)_e, times the upstream gradient.
template <class C>
SVGDX_HD C log_softmax_grad(C upstream, bool taken, C probability) {
  return upstream * ((taken ? C(1) : C(0)) - probability);
}

}  // namespace svgdx
