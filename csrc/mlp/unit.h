// What the passes of mlp/args.h compute at one unit, shared by both backends; V is a number or a SIMD vector.
#pragma once

#include "mlp/activation.h"

namespace svgdx {

// A hidden unit with argument z and tangent z': h, h', and what the reverse sweep needs.
template <class V>
struct HiddenUnit {
  V value, tangent;  // a(z), a'(z) z'
  V slope, bend;     // a'(z), a''(z) z'
};

template <class V>
SVGDX_HD HiddenUnit<V> hidden_unit(const Jet<V>& jet, V tangent) {
  return {jet.value, jet.first * tangent, jet.first, jet.second * tangent};
}

// The same for a unit of the last layer, weighted by the head: its share of the output, and the gradient in z with its
// tangent.
template <class V>
struct HeadUnit {
  V share, grad, grad_tangent;
};

template <class V>
SVGDX_HD HeadUnit<V> head_unit(const Jet<V>& jet, V tangent, V weight) {
  return {weight * jet.value, jet.first * weight, jet.second * tangent * weight};
}

// The tangent of the gradient in z, from g and g', the gradient in h and its tangent; the gradient in z is slope * g.
template <class V>
SVGDX_HD V reverse_tangent(V slope, V bend, V grad, V grad_tangent) {
  return slope * grad_tangent + bend * grad;
}

// The Laplacian of h from that of z and the sum over d of (dz/dx_d)^2.
template <class V>
SVGDX_HD V unit_laplacian(const Jet<V>& jet, V squares, V laplacian) {
  return jet.second * squares + jet.first * laplacian;
}

// The gradient in J_d from the gradients in a'(z) J_d and in the Laplacian of h.
template <class V>
SVGDX_HD V unit_jacobian_grad(const Jet<V>& jet, V slope, V grad, V grad_laplacian) {
  return jet.first * grad + (jet.second + jet.second) * slope * grad_laplacian;
}

// The gradients in z and its Laplacian l from those in h and its Laplacian; `along` is the sum over d of J_d times the
// gradient in a'(z) J_d.
template <class V>
struct UnitGrads {
  V argument, laplacian;
};

template <class V>
SVGDX_HD UnitGrads<V> unit_laplacian_grads(const Jet<V>& jet, V squares, V laplacian, V along, V grad,
                                           V grad_laplacian) {
  return {jet.first * grad + jet.second * (along + laplacian * grad_laplacian) + jet.third * squares * grad_laplacian,
          jet.first * grad_laplacian};
}

}  // namespace svgdx
