// Checks the arguments that the ops behind twin critics share.
#pragma once

#include "common/expect.h"
#include "mlp/minimum.h"

namespace svgdx {

// The second network's parameters may begin up to this many numbers late, so that they are aligned.
constexpr int64_t kMostPadding = 3;

inline MinimumShape shape_of(const char* op, int64_t rows, int64_t group, const Tensor& x, const Tensor& parameters,
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
  SVGDX_CHECK(parameters.dim() == 2, op, "parameters must have 2 dimensions");
  const int64_t pitch = parameters.size(1);
  MinimumShape shape(rows, group, std::move(all), Activation(code), pitch);
  const int64_t padding = pitch - shape.parameters;
  SVGDX_CHECK(padding >= 0 && padding <= kMostPadding, op,
              "parameters must have shape (2, P) with P = ", shape.parameters, " and at most ", kMostPadding,
              " numbers of padding, but has ", text(sizes_of(parameters)));
  expect(op, "parameters", parameters, x, type, {2, pitch}, "shape (2, P)");
  return shape;
}

// The shape for points x (B M, D) and shifts of the first layer (2, B, H).
inline MinimumShape shape_of(const char* op, const Tensor& x, const Tensor& shift, const Tensor& parameters,
                             const Tensor& widths, int64_t activation) {
  SVGDX_CHECK(x.dim() == 2 && shift.dim() == 3, op, "x and shift must have 2 and 3 dimensions");
  const int64_t rows = x.size(0), states = shift.size(1);
  SVGDX_CHECK(states > 0 ? rows % states == 0 : rows == 0, op, "x must have the same number of rows for each state");
  const MinimumShape shape = shape_of(op, rows, rows > 0 ? rows / states : 1, x, parameters, widths, activation);
  expect(op, "x", x, x, x.scalar_type(), {rows, shape.dim}, "shape (B M, D)");
  expect(op, "shift", shift, x, x.scalar_type(), {2, states, shape.widths[1]}, "shape (2, B, H)");
  return shape;
}

}  // namespace svgdx
