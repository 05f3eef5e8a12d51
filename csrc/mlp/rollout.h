// The checked arguments of mlp_rollout and mlp_rollout_backward, shared by both backends.
#pragma once

#include "common/philox.h"
#include "common/tensors.h"

namespace svgdx {

struct MlpRolloutTensors {
  Tensor argument, state, columns, deeper, deeper_bias, head, head_bias, hidden;
  OptionalTensor logits;
  int64_t split, steps, first_visit;
  double slope;
  PhiloxKey forward, backward;  // of the first step
  double temperature, epsilon, backward_epsilon;

  // The key of a step of forward or backward rows.
  PhiloxKey key(bool is_forward, int64_t step) const {
    PhiloxKey key = is_forward ? forward : backward;
    key.offset += uint64_t(step);
    return key;
  }

  // The activations (B, H) of one layer: those of this visit, or, if nothing is recorded, always the same memory.
  Tensor activations(int64_t layer, int64_t step) const {
    const Tensor visits = torch::stable::select(hidden, 0, layer);
    return torch::stable::select(visits, 0, hidden.size(1) > 1 ? first_visit + step : 0);
  }
};

struct MlpBackwardTensors {
  Tensor grad_logits, hidden, set_time, final, deeper, head;
  int64_t split;
  double slope;
};

}  // namespace svgdx
