// Host layer of gfn_sample_forward and gfn_sample_backward, compiled once for each backend.
#include <tuple>

#include "common/key.h"
#include "common/registration.h"
#include "common/storage.h"
#include "draw/host.h"
#include SVGDX_BACKEND_HEADER(common, device.h)

namespace svgdx::SVGDX_BACKEND {

static std::tuple<Tensor, Tensor, Tensor> sample(const char* op, bool forward, const Tensor& logits,
                                                 const Tensor& state, const PhiloxKey& key, double temperature,
                                                 double epsilon) {
  const Guard guard(logits);
  check_floating(op, "logits", logits);
  check_dtype(op, "state", state, ScalarType::Char);
  check_device(op, "state", state, logits);
  const Sizes sizes = sizes_of(state);
  SVGDX_CHECK(!sizes.empty(), op, "state must have shape (..., D), but has ", text(sizes));
  const Sizes lead(sizes.begin(), sizes.end() - 1);
  const int64_t dim = sizes.back(), batch = product_of(lead);
  SVGDX_CHECK(dim < INT32_MAX / 3, op, "state is too large: ", text(sizes));
  check_shape(op, "logits", logits, joined(lead, {3 * dim}), "shape (..., 3D)");
  check_draw(op, temperature, epsilon);
  const Tensor action = new_empty(logits, lead, ScalarType::Long), next = new_empty(state, sizes, ScalarType::Char);
  const Tensor log_prob = new_empty(logits, lead, compute_type(logits.scalar_type()));
  if (batch == 0) return {action, log_prob, next};
  const Tensor l = dense(logits), s = dense(state);
  with_storage(logits.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    const SampleArgs<S> args{batch,
                             dim,
                             data<S>(l),
                             data<int8_t>(s),
                             forward,
                             key,
                             draw_scale(temperature),
                             float(epsilon),
                             out<int64_t>(action),
                             out<Compute<S>>(log_prob),
                             out<int8_t>(next)};
    gfn_sample<S>(args, stream(logits));
    if (logits.is_cpu()) explain_sample(op, args);
  });
  return {action, log_prob, next};
}

static std::tuple<Tensor, Tensor, Tensor> sample_forward(const Tensor& logits, const Tensor& state, int64_t seed,
                                                         int64_t offset, double temperature, double epsilon) {
  return sample("gfn_sample_forward", true, logits, state, number_key(seed, offset), temperature, epsilon);
}

static std::tuple<Tensor, Tensor, Tensor> sample_backward(const Tensor& logits, const Tensor& state, int64_t seed,
                                                          int64_t offset, double temperature, double epsilon) {
  return sample("gfn_sample_backward", false, logits, state, number_key(seed, offset), temperature, epsilon);
}

static std::tuple<Tensor, Tensor, Tensor> sample_forward_key(const Tensor& logits, const Tensor& state,
                                                             const Tensor& key, int64_t offset, double temperature,
                                                             double epsilon) {
  const TensorKey words("gfn_sample_forward", key, offset, "logits", logits);
  return sample("gfn_sample_forward", true, logits, state, words.key, temperature, epsilon);
}

static std::tuple<Tensor, Tensor, Tensor> sample_backward_key(const Tensor& logits, const Tensor& state,
                                                              const Tensor& key, int64_t offset, double temperature,
                                                              double epsilon) {
  const TensorKey words("gfn_sample_backward", key, offset, "logits", logits);
  return sample("gfn_sample_backward", false, logits, state, words.key, temperature, epsilon);
}

SVGDX_OPS(m) {
  m.op(
      "gfn_sample_forward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&sample_forward));
  m.op(
      "gfn_sample_forward.key(Tensor logits, Tensor state, Tensor key, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&sample_forward_key));
  m.op(
      "gfn_sample_backward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&sample_backward));
  m.op(
      "gfn_sample_backward.key(Tensor logits, Tensor state, Tensor key, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&sample_backward_key));
}

}  // namespace svgdx::SVGDX_BACKEND
