// The ops behind the twin critics of svgdx.rl, compiled once for each backend: inner ops, whose Python side prepares
// every argument.
#include "mlp/minimum.h"

#include "common/registration.h"
#include "mlp/minimum_shape.h"
#include SVGDX_BACKEND_HEADER(common, device.h)
#include SVGDX_BACKEND_HEADER(mlp, along.h)
#include SVGDX_BACKEND_HEADER(mlp, minimum.h)

namespace svgdx::SVGDX_BACKEND {

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

static Five minimum(const Tensor& x, const Tensor& shift, const Tensor& parameters, const Tensor& widths,
                    int64_t activation, int64_t depth) {
  const Guard guard(x);
  const char* op = "mlp_minimum";
  SVGDX_CHECK(depth >= 0 && depth <= 2, op, "depth must be 0, 1 or 2, but is ", depth);
  const MinimumShape shape = shape_of(op, x, shift, parameters, widths, activation);
  const auto run = [&](auto number) -> Five {
    MlpMinimum<decltype(number)> sweep(shape, x, shift, parameters, depth);
    sweep.run();
    const MinimumKept& kept = sweep.kept();
    return {sweep.value(), sweep.score(), kept.order, kept.values, kept.back};
  };
  return x.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

static std::tuple<Tensor, Tensor> along(const Tensor& direction, const Tensor& order, const Tensor& values,
                                        const Tensor& back, const Tensor& parameters, const Tensor& widths,
                                        int64_t activation, int64_t streams) {
  const Guard guard(direction);
  const char* op = "mlp_along";
  SVGDX_CHECK(direction.dim() == 2, op, "direction must have 2 dimensions");
  SVGDX_CHECK(streams == 1 || streams == 2, op, "streams must be 1 or 2, but is ", streams);
  const int64_t rows = direction.size(0);
  const MinimumShape shape = shape_of(op, rows, 1, direction, parameters, widths, activation);
  const ScalarType type = direction.scalar_type();
  expect(op, "direction", direction, direction, type, {rows, shape.dim}, "shape (B M, D)");
  expect(op, "order", order, direction, ScalarType::Int, {rows}, "shape (B M)");
  const int64_t saved = kNetworksSaved * rows;
  expect(op, "values", values, direction, type, {saved, shape.units}, "shape (B M, units)");
  expect(op, "back", back, direction, type, {saved, shape.inner}, "shape (B M, units below the last layer)");
  const MinimumKept kept{order, values, back};
  check_order(op, shape, order);
  if (type == ScalarType::Double) return MlpAlong<double>(shape, direction, parameters, kept, streams).run();
  return MlpAlong<float>(shape, direction, parameters, kept, streams).run();
}

SVGDX_INNER_OPS(m) {
  m.op(
      "mlp_minimum(Tensor x, Tensor shift, Tensor parameters, Tensor widths, int activation, int depth) -> (Tensor, "
      "Tensor, Tensor, Tensor, Tensor)",
      TORCH_BOX(&minimum));
  m.op(
      "mlp_along(Tensor direction, Tensor order, Tensor values, Tensor back, Tensor parameters, Tensor widths, int "
      "activation, int streams) -> (Tensor, Tensor)",
      TORCH_BOX(&along));
  // Only the CUDA library has functions for these, in mlp/cuda/tanh_target.cpp.
  m.def(
      "mlp_tanh_target(Tensor u, Tensor? probe, Tensor temperature, Tensor shift, Tensor parameters, Tensor widths, "
      "int activation, bool graph) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor)");
  m.def(
      "mlp_tanh_target_backward(Tensor? grad_log_prob, Tensor? grad_score, Tensor? grad_trace, Tensor u, Tensor? "
      "probe, Tensor temperature, Tensor gradient, Tensor product, Tensor third, Tensor order, Tensor values, Tensor "
      "back, Tensor parameters, Tensor widths, int activation) -> Tensor");
}

}  // namespace svgdx::SVGDX_BACKEND
