// The ops behind svgdx.gflownets.MLPPolicy, compiled once for each backend: inner ops, whose Python side prepares every
// argument.
#include "mlp/rollout.h"

#include "common/expect.h"
#include "common/key.h"
#include "common/registration.h"
#include SVGDX_BACKEND_HEADER(common, device.h)
#include SVGDX_BACKEND_HEADER(mlp, backward.h)
#include SVGDX_BACKEND_HEADER(mlp, rollout.h)

namespace svgdx::SVGDX_BACKEND {

static std::tuple<Tensor, Tensor> rollout_with(const Tensor& argument, const Tensor& state, int64_t split,
                                               int64_t steps, const Tensor& columns, const Tensor& deeper,
                                               const Tensor& deeper_bias, const Tensor& head, const Tensor& head_bias,
                                               double slope, const Tensor& hidden, int64_t first_visit,
                                               const OptionalTensor& logits, const PhiloxKey& forward,
                                               const PhiloxKey& backward, double temperature, double epsilon,
                                               double backward_epsilon) {
  const Guard guard(hidden);
  const char* op = "mlp_rollout";
  const ScalarType type = hidden.scalar_type(), sums = compute_type(type);
  check_floating(op, "hidden", hidden);
  SVGDX_CHECK(argument.dim() == 2 && state.dim() == 2 && hidden.dim() == 4, op,
              "argument, state and hidden must have 2, 2 and 4 dimensions");
  const int64_t batch = state.size(0), dim = state.size(1), width = argument.size(1), deep = hidden.size(0) - 1;
  const int64_t visits = hidden.size(1);
  SVGDX_CHECK(split >= 0 && split <= batch && steps >= 0, op, "split must be in [0, B] and steps must not be negative");
  SVGDX_CHECK(visits == 1 || (first_visit >= 0 && first_visit + steps < visits), op, "hidden must hold visits ",
              first_visit, " to ", first_visit + steps, ", or 1, but has ", visits);
  check_draw("gfn_sample_forward", temperature, epsilon);
  expect(op, "argument", argument, hidden, sums, {batch, width}, "shape (B, H)");
  expect(op, "state", state, hidden, ScalarType::Char, {batch, dim}, "shape (B, D)");
  expect(op, "columns", columns, hidden, sums, {dim, width}, "shape (D, H)");
  expect(op, "deeper", deeper, hidden, type, {deep, width, width}, "shape (L-1, H, H)");
  expect(op, "deeper_bias", deeper_bias, hidden, sums, {deep, width}, "shape (L-1, H)");
  expect(op, "head", head, hidden, type, {3 * dim, width}, "shape (3D, H)");
  expect(op, "head_bias", head_bias, hidden, sums, {3 * dim}, "shape (3D)");
  expect(op, "hidden", hidden, hidden, type, {deep + 1, visits, batch, width}, "shape (L, V, B, H)");
  if (logits) {
    SVGDX_CHECK(logits->dim() == 3 && logits->size(1) > steps, op, "logits must hold steps + 1 states");
    expect(op, "logits", *logits, hidden, type, {batch, logits->size(1), 3 * dim}, "shape (B, V, 3D)");
  }
  const MlpRolloutTensors tensors{argument,  state,   columns,  deeper,      deeper_bias, head,
                                  head_bias, hidden,  logits,   split,       steps,       first_visit,
                                  slope,     forward, backward, temperature, epsilon,     backward_epsilon};
  std::tuple<Tensor, Tensor> result{state, state};
  with_rollout_storage(op, type, [&](auto storage) { result = MlpRollout<decltype(storage)>(tensors).run(); });
  return result;
}

static std::tuple<Tensor, Tensor> rollout(const Tensor& argument, const Tensor& state, int64_t split, int64_t steps,
                                          const Tensor& columns, const Tensor& deeper, const Tensor& deeper_bias,
                                          const Tensor& head, const Tensor& head_bias, double slope,
                                          const Tensor& hidden, int64_t first_visit, const OptionalTensor& logits,
                                          int64_t seed, int64_t forward_offset, int64_t backward_offset,
                                          double temperature, double epsilon, double backward_epsilon) {
  return rollout_with(argument, state, split, steps, columns, deeper, deeper_bias, head, head_bias, slope, hidden,
                      first_visit, logits, number_key(seed, forward_offset), number_key(seed, backward_offset),
                      temperature, epsilon, backward_epsilon);
}

static std::tuple<Tensor, Tensor> rollout_key(const Tensor& argument, const Tensor& state, int64_t split, int64_t steps,
                                              const Tensor& columns, const Tensor& deeper, const Tensor& deeper_bias,
                                              const Tensor& head, const Tensor& head_bias, double slope,
                                              const Tensor& hidden, int64_t first_visit, const OptionalTensor& logits,
                                              const Tensor& key, int64_t forward_offset, int64_t backward_offset,
                                              double temperature, double epsilon, double backward_epsilon) {
  const TensorKey forward("mlp_rollout", key, forward_offset, "hidden", hidden);
  const TensorKey backward("mlp_rollout", key, backward_offset, "hidden", hidden);
  return rollout_with(argument, state, split, steps, columns, deeper, deeper_bias, head, head_bias, slope, hidden,
                      first_visit, logits, forward.key, backward.key, temperature, epsilon, backward_epsilon);
}

static Tensor backward(const Tensor& grad_logits, const Tensor& hidden, int64_t split, const Tensor& set_time,
                       const Tensor& final, const Tensor& deeper, const Tensor& head, double slope) {
  const Guard guard(hidden);
  const char* op = "mlp_rollout_backward";
  const ScalarType type = hidden.scalar_type();
  check_floating(op, "hidden", hidden);
  SVGDX_CHECK(hidden.dim() == 4 && final.dim() == 2, op, "hidden and final must have 4 and 2 dimensions");
  const int64_t deep = hidden.size(0) - 1, visits = hidden.size(1), batch = hidden.size(2), width = hidden.size(3);
  const int64_t dim = final.size(1);
  SVGDX_CHECK(split >= 0 && split <= batch, op, "split must be in [0, B]");
  expect(op, "hidden", hidden, hidden, type, {deep + 1, visits, batch, width}, "shape (L, V, B, H)");
  expect(op, "grad_logits", grad_logits, hidden, type, {batch, visits, 3 * dim}, "shape (B, V, 3D)");
  expect(op, "set_time", set_time, hidden, ScalarType::Int, {batch, dim}, "shape (B, D)");
  expect(op, "final", final, hidden, ScalarType::Char, {batch, dim}, "shape (B, D)");
  expect(op, "deeper", deeper, hidden, type, {deep, width, width}, "shape (L-1, H, H)");
  expect(op, "head", head, hidden, type, {3 * dim, width}, "shape (3D, H)");
  const MlpBackwardTensors tensors{grad_logits, hidden, set_time, final, deeper, head, split, slope};
  std::optional<Tensor> result;
  with_rollout_storage(op, type, [&](auto storage) { result = MlpBackward<decltype(storage)>(tensors).run(); });
  return *result;
}

SVGDX_INNER_OPS(m) {
  m.op(
      "mlp_rollout(Tensor(a!) argument, Tensor state, int split, int steps, Tensor columns, Tensor deeper, Tensor "
      "deeper_bias, Tensor head, Tensor head_bias, float slope, Tensor(b!) hidden, int first_visit, Tensor(c!)? "
      "logits, int seed, int forward_offset, int backward_offset, float temperature, float epsilon, float "
      "backward_epsilon) -> (Tensor, Tensor)",
      TORCH_BOX(&rollout));
  m.op(
      "mlp_rollout.key(Tensor(a!) argument, Tensor state, int split, int steps, Tensor columns, Tensor deeper, Tensor "
      "deeper_bias, Tensor head, Tensor head_bias, float slope, Tensor(b!) hidden, int first_visit, Tensor(c!)? "
      "logits, Tensor key, int forward_offset, int backward_offset, float temperature, float epsilon, float "
      "backward_epsilon) -> (Tensor, Tensor)",
      TORCH_BOX(&rollout_key));
  m.op(
      "mlp_rollout_backward(Tensor grad_logits, Tensor hidden, int split, Tensor set_time, Tensor final, Tensor "
      "deeper, Tensor head, float slope) -> Tensor",
      TORCH_BOX(&backward));
}

}  // namespace svgdx::SVGDX_BACKEND
