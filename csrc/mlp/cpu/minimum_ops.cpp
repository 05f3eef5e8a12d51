// The CPU ops behind the twin critics of svgdx.rl: inner ops, whose Python side prepares every argument.
#include "mlp/cpu/along.h"
#include "mlp/cpu/expect.h"
#include "mlp/cpu/minimum.h"

namespace svgdx {
namespace {

MinimumShape shape_of(const char* op, int64_t rows, int64_t group, const Tensor& x, const Tensor& parameters,
                      const Tensor& widths, int64_t code) {
  const ScalarType type = x.scalar_type();
  SVGDX_CHECK(type == ScalarType::Float || type == ScalarType::Double, op, "x must be float32 or float64");
  SVGDX_CHECK(widths.is_cpu() && widths.scalar_type() == ScalarType::Long && widths.dim() == 1 &&
                  widths.is_contiguous() && widths.size(0) >= 3,
              op, "widths must be a CPU tensor of at least 3 int64 numbers");
  std::vector<int64_t> all(data<int64_t>(widths), data<int64_t>(widths) + widths.size(0));
  SVGDX_CHECK(*std::min_element(all.begin(), all.end()) >= 1 && all.back() == 1, op,
              "widths must be positive and end with 1, but are ", text(all));
  const bool known = code >= int64_t(Activation::tanh) && code < kActivations;
  SVGDX_CHECK(known, op, "activation must be tanh, softplus, elu or relu, but is number ", code);
  MinimumShape shape(rows, group, std::move(all), Activation(code));
  expect(op, "parameters", parameters, type, {2, shape.parameters}, "shape (2, P)");
  return shape;
}

using Made = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Made minimum(const Tensor& x, const Tensor& shift, const Tensor& parameters, const Tensor& widths, int64_t activation,
             int64_t depth) {
  const char* op = "mlp_minimum";
  SVGDX_CHECK(x.dim() == 2 && shift.dim() == 3, op, "x and shift must have 2 and 3 dimensions");
  SVGDX_CHECK(depth >= 0 && depth <= 2, op, "depth must be 0, 1 or 2, but is ", depth);
  const int64_t rows = x.size(0), states = shift.size(1);
  SVGDX_CHECK(states > 0 ? rows % states == 0 : rows == 0, op, "x must have the same number of rows for each state");
  const MinimumShape shape = shape_of(op, rows, states > 0 ? rows / states : 1, x, parameters, widths, activation);
  expect(op, "x", x, x.scalar_type(), {rows, shape.dim}, "shape (B M, D)");
  expect(op, "shift", shift, x.scalar_type(), {2, states, shape.widths[1]}, "shape (2, B, H)");
  const auto run = [&](auto number) -> Made {
    MlpMinimum<decltype(number)> made(shape, x, shift, parameters, depth);
    made.run();
    const MinimumKept& kept = made.kept();
    return {made.value(), made.score(), kept.order, kept.values, kept.back};
  };
  return x.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

std::tuple<Tensor, Tensor> along(const Tensor& direction, const Tensor& order, const Tensor& values, const Tensor& back,
                                 const Tensor& parameters, const Tensor& widths, int64_t activation, int64_t streams) {
  const char* op = "mlp_along";
  SVGDX_CHECK(direction.dim() == 2, op, "direction must have 2 dimensions");
  SVGDX_CHECK(streams == 1 || streams == 2, op, "streams must be 1 or 2, but is ", streams);
  const int64_t rows = direction.size(0);
  const MinimumShape shape = shape_of(op, rows, 1, direction, parameters, widths, activation);
  const ScalarType type = direction.scalar_type();
  expect(op, "direction", direction, type, {rows, shape.dim}, "shape (B M, D)");
  expect(op, "order", order, ScalarType::Int, {rows}, "shape (B M)");
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t r = data<int32_t>(order)[i], within = r < 0 ? ~r : r;
    SVGDX_CHECK(within < shape.block && i / shape.block * shape.block + within < rows, op,
                "order must contain rows of a block, but contains ", r);
  }
  expect(op, "values", values, type, {rows, shape.units}, "shape (B M, units)");
  expect(op, "back", back, type, {rows, shape.inner}, "shape (B M, units below the last layer)");
  const MinimumKept kept{order, values, back};
  if (type == ScalarType::Double) return MlpAlong<double>(shape, direction, parameters, kept, streams).run();
  return MlpAlong<float>(shape, direction, parameters, kept, streams).run();
}

}  // namespace
}  // namespace svgdx

// CPU only: on CUDA svgdx.rl computes the same with torch's own ops.
SVGDX_CPU_LIBRARY(m) {
  m.def(
      "mlp_minimum(Tensor x, Tensor shift, Tensor parameters, Tensor widths, int activation, int depth) -> (Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mlp_along(Tensor direction, Tensor order, Tensor values, Tensor back, Tensor "
      "parameters, Tensor widths, int activation, int streams) -> (Tensor, Tensor)");
}

SVGDX_CPU_IMPL(m) {
  m.impl("mlp_minimum", TORCH_BOX(&::svgdx::minimum));
  m.impl("mlp_along", TORCH_BOX(&::svgdx::along));
}
