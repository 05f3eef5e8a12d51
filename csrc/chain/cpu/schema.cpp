// Schemas of the small steps of a chain.
#include <torch/csrc/stable/library.h>

#include "common/backend.h"

SVGDX_INNER_LIBRARY(m) {
  m.def("chain_bound(Tensor sqnorm, Tensor step_size, float slope) -> (Tensor, Tensor)");
  m.def("chain_bound_backward(Tensor grad, Tensor limit, Tensor step_size, float slope) -> Tensor");
  m.def("chain_learnt(Tensor raw, float low, float width) -> Tensor");
  m.def("chain_learnt_backward(Tensor grad, Tensor raw, float low, float width) -> Tensor");
  m.def("chain_moved(Tensor query, Tensor x, Tensor score, Tensor bandwidth, Tensor? query_score) -> (Tensor, Tensor)");
  m.def(
      "chain_inverse(Tensor query, Tensor query_score, Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, "
      "Tensor limit, Tensor? error, Tensor(a!) open, int iteration) -> (Tensor, Tensor)");
  m.def(
      "chain_accept(Tensor x, Tensor ahead, Tensor back, Tensor here, Tensor log_p_ahead, Tensor log_p_back, Tensor "
      "gain, Tensor gain_back, Tensor can_ahead, Tensor can_back, Tensor toss, Tensor chance) -> (Tensor, Tensor, "
      "Tensor)");
  m.def(
      "chain_accept_backward(Tensor? grad_next, Tensor? grad_change, Tensor x, Tensor ahead, Tensor back, Tensor here, "
      "Tensor log_p_ahead, Tensor log_p_back, Tensor gain, Tensor gain_back, Tensor can_ahead, Tensor can_back, Tensor "
      "toss, Tensor chance) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
