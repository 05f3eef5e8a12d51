// Schemas of mlp_score_hvp and mlp_laplacian, and of the inner ops of this room.
#include <torch/csrc/stable/library.h>

#include "common/backend.h"

SVGDX_LIBRARY(m) {
  m.def(
      "mlp_score_hvp(Tensor x, Tensor? condition, Tensor probe, Tensor parameters, Tensor widths, int activation) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "mlp_laplacian(Tensor x, Tensor? condition, Tensor parameters, Tensor widths, int activation) -> (Tensor, "
      "Tensor, Tensor)");
}

SVGDX_INNER_LIBRARY(m) {
  m.def(
      "mlp_minimum(Tensor x, Tensor shift, Tensor parameters, Tensor widths, int activation, int depth) -> (Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mlp_along(Tensor direction, Tensor order, Tensor values, Tensor back, Tensor "
      "parameters, Tensor widths, int activation, int streams) -> (Tensor, Tensor)");
  m.def(
      "mlp_tanh_target(Tensor u, Tensor? probe, Tensor temperature, Tensor shift, Tensor parameters, Tensor widths, "
      "int "
      "activation, bool graph) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mlp_tanh_target_backward(Tensor? grad_log_prob, Tensor? grad_score, Tensor? grad_trace, Tensor u, Tensor? "
      "probe, "
      "Tensor temperature, Tensor gradient, Tensor product, Tensor third, Tensor order, Tensor values, Tensor back, "
      "Tensor parameters, Tensor widths, int activation) -> Tensor");
  m.def(
      "mlp_rollout(Tensor(a!) argument, Tensor state, int split, int steps, Tensor columns, Tensor deeper, Tensor "
      "deeper_bias, Tensor head, Tensor head_bias, float slope, Tensor(b!) hidden, int first_visit, Tensor(c!)? "
      "logits, int seed, int forward_offset, int backward_offset, float temperature, float epsilon, float "
      "backward_epsilon) -> (Tensor, Tensor)");
  m.def(
      "mlp_rollout.key(Tensor(a!) argument, Tensor state, int split, int steps, Tensor columns, Tensor deeper, Tensor "
      "deeper_bias, Tensor head, Tensor head_bias, float slope, Tensor(b!) hidden, int first_visit, Tensor(c!)? "
      "logits, Tensor key, int forward_offset, int backward_offset, float temperature, float epsilon, float "
      "backward_epsilon) -> (Tensor, Tensor)");
  m.def(
      "mlp_rollout_backward(Tensor grad_logits, Tensor hidden, int split, Tensor set_time, Tensor final, Tensor "
      "deeper, Tensor head, float slope) -> Tensor");
}
