// Host layer of the small steps of a chain, compiled once for each backend: inner ops, whose Python side prepares every
// argument.
#include "chain/args.h"
#include "common/registration.h"
#include "common/tensors.h"
#include SVGDX_BACKEND_HEADER(common, device.h)

namespace svgdx::SVGDX_BACKEND {

static ScalarType check_type(const char* op, const char* name, const Tensor& t) {
  const ScalarType type = t.scalar_type();
  SVGDX_CHECK(type == ScalarType::Float || type == ScalarType::Double, op, name, " must be float32 or float64, but is ",
              name_of(type));
  return type;
}

static std::tuple<Tensor, Tensor> bound(const Tensor& sqnorm_in, const Tensor& step_size, double slope) {
  const Guard guard(sqnorm_in);
  const char* op = "chain_bound";
  const ScalarType type = check_type(op, "sqnorm", sqnorm_in);
  SVGDX_CHECK(sqnorm_in.dim() >= 1, op, "sqnorm must have shape (..., M)");
  Sizes lead = sizes_of(sqnorm_in);
  const int64_t particles = lead.back();
  lead.pop_back();
  const Tensor sqnorm = dense(sqnorm_in);
  const Tensor limit = new_empty(sqnorm, lead, type), bounded = new_empty(sqnorm, lead, type);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> step(op, "step_size", step_size, sqnorm, lead, false);
    chain_bound<T>({limit.numel(), particles, data<T>(sqnorm), step.view(), T(slope), out<T>(limit), out<T>(bounded)},
                   stream(sqnorm));
  };
  type == ScalarType::Double ? run(double{}) : run(float{});
  return {limit, bounded};
}

static Tensor bound_backward(const Tensor& grad_in, const Tensor& limit, const Tensor& step_size, double slope) {
  const Guard guard(limit);
  const char* op = "chain_bound_backward";
  const ScalarType type = check_type(op, "limit", limit);
  const Sizes lead = sizes_of(limit);
  check_shape(op, "grad", grad_in, lead, "the shape of limit");
  check_device(op, "grad", grad_in, limit);
  const Tensor grad = as_dense(grad_in, type);
  const Tensor grad_step = new_empty(limit, sizes_of(step_size), type);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> step(op, "step_size", step_size, limit, lead, false);
    chain_bound_backward<T>({limit.numel(), step.view(), T(slope), data<T>(limit), data<T>(grad), out<T>(grad_step)},
                            stream(limit));
  };
  type == ScalarType::Double ? run(double{}) : run(float{});
  return as_type(grad_step, step_size.scalar_type());
}

static Tensor learnt_of(const char* op, const Tensor& raw_in, double low, double width, const OptionalTensor& grad_in) {
  const Guard guard(raw_in);
  const ScalarType type = check_type(op, "raw", raw_in);
  const Tensor raw = dense(raw_in), result = new_empty(raw, sizes_of(raw), type);
  const OptionalTensor grad = as_dense(grad_in, type);
  if (grad) {
    check_shape(op, "grad", *grad, sizes_of(raw), "the shape of raw");
    check_device(op, "grad", *grad, raw);
  }
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    chain_learnt<T>({raw.numel(), data<T>(raw), T(low), T(width), data<T>(grad), out<T>(result)}, stream(raw));
  };
  type == ScalarType::Double ? run(double{}) : run(float{});
  return result;
}

static Tensor learnt(const Tensor& raw, double low, double width) {
  return learnt_of("chain_learnt", raw, low, width, std::nullopt);
}

static Tensor learnt_backward(const Tensor& grad, const Tensor& raw, double low, double width) {
  return learnt_of("chain_learnt_backward", raw, low, width, grad);
}

SVGDX_INNER_OPS(m) {
  m.op("chain_bound(Tensor sqnorm, Tensor step_size, float slope) -> (Tensor, Tensor)", TORCH_BOX(&bound));
  m.op("chain_bound_backward(Tensor grad, Tensor limit, Tensor step_size, float slope) -> Tensor",
       TORCH_BOX(&bound_backward));
  m.op("chain_learnt(Tensor raw, float low, float width) -> Tensor", TORCH_BOX(&learnt));
  m.op("chain_learnt_backward(Tensor grad, Tensor raw, float low, float width) -> Tensor", TORCH_BOX(&learnt_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
