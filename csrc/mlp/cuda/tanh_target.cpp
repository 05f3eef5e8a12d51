// The ops of the soft-optimal policy's density in svgdx.rl, on CUDA: inner ops, whose Python side prepares every
// argument. On the CPU svgdx.rl computes the same with torch's own ops.
#include "mlp/cuda/tanh_target.h"

#include "common/cuda/device.h"
#include "common/registration.h"
#include "mlp/cuda/along.h"
#include "mlp/cuda/minimum.h"
#include "mlp/minimum_shape.h"

namespace svgdx::cuda {

using Ten = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class C>
static Ten tanh_target(const MinimumShape& shape, const Tensor& u, const OptionalTensor& probe,
                       const Tensor& temperature, const Tensor& shift, const Tensor& parameters, bool graph) {
  const ScalarType type = u.scalar_type();
  const int64_t rows = shape.rows, probed = probe ? rows : 0, saved = graph ? rows : 0;
  const auto points = [&](int64_t count) { return new_empty(u, {count, shape.dim}, type); };
  const auto optional = [](const Tensor& t) { return t.numel() > 0 ? out<C>(t) : nullptr; };
  const Tensor both = points(rows + probed);
  TanhTarget<C> args{};
  args.rows = rows, args.dim = shape.dim;
  args.orders = probe ? (graph ? 2 : 1) : 0;
  args.u = data<C>(u);
  args.probe = data<C>(probe);
  args.temperature = data<C>(temperature);
  args.points = out<C>(both);
  tanh_target_begin<C>(args, stream(u));
  TwinSweep<C> sweep(shape, both, shift, parameters, graph ? 2 : 1, args.orders);
  sweep.run();
  const Tensor log_prob = new_empty(u, {rows}, type), score = points(rows);
  const Tensor trace = new_empty(u, {probed}, type), hvp = points(probed);
  const Tensor order = new_empty(u, {saved}, ScalarType::Int), gradient = points(saved);
  const Tensor product = points(std::min(saved, probed)), third = points(std::min(saved, probed));
  args.output = sweep.output();
  args.gradients = sweep.gradients();
  args.log_prob = out<C>(log_prob);
  args.score = out<C>(score);
  args.trace = optional(trace);
  args.hvp = optional(hvp);
  args.order = graph ? out<int32_t>(order) : nullptr;
  args.gradient = optional(gradient);
  args.product = optional(product);
  args.third = optional(third);
  tanh_target_end<C>(args, stream(u));
  return {log_prob, score, trace, hvp, order, sweep.saved_values(), sweep.saved_back(), gradient, product, third};
}

static void check_target(const char* op, const MinimumShape& shape, const Tensor& u, const OptionalTensor& probe,
                         const Tensor& temperature) {
  if (probe) expect(op, "probe", *probe, u, u.scalar_type(), {shape.rows, shape.dim}, "the shape of u");
  expect(op, "temperature", temperature, u, u.scalar_type(), {}, "shape ()");
}

static Ten forward(const Tensor& u, const OptionalTensor& probe, const Tensor& temperature, const Tensor& shift,
                   const Tensor& parameters, const Tensor& widths, int64_t activation, bool graph) {
  const Guard guard(u);
  const char* op = "mlp_tanh_target";
  const MinimumShape shape = shape_of(op, u, shift, parameters, widths, activation);
  check_target(op, shape, u, probe, temperature);
  const auto run = u.scalar_type() == ScalarType::Double ? tanh_target<double> : tanh_target<float>;
  return run(shape, u, probe, temperature, shift, parameters, graph);
}

template <class C>
static Tensor tanh_target_backward(const MinimumShape& shape, TanhTargetGrad<C> args, const Tensor& u,
                                   const Tensor& parameters, const MinimumKept& kept) {
  const Tensor grad_u = new_empty(u, {shape.rows, shape.dim}, u.scalar_type());
  const Tensor grad_gradient = new_empty(u, {shape.rows, shape.dim}, u.scalar_type());
  args.rows = shape.rows, args.dim = shape.dim;
  args.u = data<C>(u);
  args.grad_gradient = out<C>(grad_gradient);
  args.grad_u = out<C>(grad_u);
  Tensor grad_product;
  if (args.grad_score || args.grad_trace) {
    tanh_target_back_begin<C>(args, stream(u));
    grad_product = std::get<0>(MlpAlong<C>(shape, grad_gradient, parameters, kept, 1).run());
    args.grad_product = data<C>(grad_product);
  }
  tanh_target_back_end<C>(args, stream(u));
  return grad_u;
}

static Tensor backward(const OptionalTensor& grad_log_prob, const OptionalTensor& grad_score,
                       const OptionalTensor& grad_trace, const Tensor& u, const OptionalTensor& probe,
                       const Tensor& temperature, const Tensor& gradient, const Tensor& product, const Tensor& third,
                       const Tensor& order, const Tensor& values, const Tensor& back, const Tensor& parameters,
                       const Tensor& widths, int64_t activation) {
  const Guard guard(u);
  const char* op = "mlp_tanh_target_backward";
  SVGDX_CHECK(u.dim() == 2, op, "u must have 2 dimensions");
  const int64_t rows = u.size(0), probed = probe ? rows : 0, saved = kNetworksSaved * rows;
  const ScalarType type = u.scalar_type();
  const MinimumShape shape = shape_of(op, rows, 1, u, parameters, widths, activation);
  const Sizes points{rows, shape.dim};
  expect(op, "u", u, u, type, points, "shape (N, D)");
  check_target(op, shape, u, probe, temperature);
  SVGDX_CHECK(probe || !grad_trace, op, "grad_trace must be omitted without probe");
  if (grad_log_prob) expect(op, "grad_log_prob", *grad_log_prob, u, type, {rows}, "shape (N)");
  if (grad_score) expect(op, "grad_score", *grad_score, u, type, points, "the shape of u");
  if (grad_trace) expect(op, "grad_trace", *grad_trace, u, type, {rows}, "shape (N)");
  expect(op, "gradient", gradient, u, type, points, "the shape of u");
  expect(op, "product", product, u, type, {probed, shape.dim}, "the shape of probe");
  expect(op, "third", third, u, type, {probed, shape.dim}, "the shape of probe");
  expect(op, "order", order, u, ScalarType::Int, {rows}, "shape (N)");
  expect(op, "values", values, u, type, {saved, shape.units}, "shape (2 N, units)");
  expect(op, "back", back, u, type, {saved, shape.inner}, "shape (2 N, units below the last layer)");
  const auto run = [&](auto number) {
    using C = decltype(number);
    TanhTargetGrad<C> args{};
    args.probe = data<C>(probe);
    args.temperature = data<C>(temperature);
    args.gradient = data<C>(gradient);
    args.product = data<C>(product);
    args.third = data<C>(third);
    args.grad_log_prob = data<C>(grad_log_prob);
    args.grad_score = data<C>(grad_score);
    args.grad_trace = data<C>(grad_trace);
    return tanh_target_backward<C>(shape, args, u, parameters, {order, values, back});
  };
  return type == ScalarType::Double ? run(double{}) : run(float{});
}

SVGDX_INNER_OPS(m) {
  m.impl("mlp_tanh_target", TORCH_BOX(&forward));
  m.impl("mlp_tanh_target_backward", TORCH_BOX(&backward));
}

}  // namespace svgdx::cuda
