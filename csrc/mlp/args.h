// The passes over rows between the matrix products of a multilayer perceptron's derivatives. All arrays are contiguous;
// C is the compute type, float or double.
#pragma once

#include <cstdint>

#include "mlp/activation.h"

namespace svgdx {

// What is added to the product to give a layer's argument: the bias and, in the first layer, the condition's part.
template <class C>
struct LayerShift {
  const C* bias;         // (width)
  const C* condition;    // (B, width) or null
  int64_t first, group;  // row r belongs to row (first + r) / group of B

  SVGDX_HD const C* condition_row(int64_t r, int64_t width) const {
    return condition ? condition + (first + r) / group * width : nullptr;
  }
};

// The last layer, which has one output.
template <class C>
struct MlpHead {
  const C* weight;  // (width), null below the last hidden layer
  const C* bias;    // (1)
  C* value;         // (rows)
};

// A hidden layer with value and tangent, z and z'. Below the last layer it writes h = a(z) and h' = a'(z) z' to
// `stacked` and saves a'(z) and a''(z) z'. The last layer writes the value, and to `stacked` the gradient in z and its
// tangent, a'(z) w and a''(z) z' w.
template <class C>
struct MlpForward {
  int64_t rows, width;
  Activation activation;
  const C* product;  // (2 rows, width): z without its shift, then z'
  LayerShift<C> shift;
  C* stacked;  // (2 rows, width)
  C* slope;    // (rows, width): a'(z)
  C* bend;     // (rows, width): a''(z) z'
  MlpHead<C> head;
};

// From the gradient in h and its tangent, g and g', to those in z: a'(z) g and a'(z) g' + a''(z) z' g.
template <class C>
struct MlpReverse {
  int64_t rows, width;
  const C* product;  // (2 rows, width): g, then g'
  const C* slope;
  const C* bend;
  C* stacked;  // (2 rows, width)
};

// A hidden layer with value, Laplacian and Jacobian: the argument z, its Laplacian l and its derivatives J_d.
template <class C>
struct LaplacianLayer {
  int64_t rows, dim, width;
  Activation activation;
  const C* argument;  // (rows, width): z without its shift
  LayerShift<C> shift;
  const C* laplacian;       // (rows, width); null means zero
  const C* jacobian;        // (rows, dim, width)
  int64_t jacobian_stride;  // from row to row; 0 if all rows share one Jacobian
};

// Computes h = a(z), a'(z) l + a''(z) sum_d J_d^2 and a'(z) J_d. The last layer sums each of them with the head's
// weights.
template <class C>
struct MlpLaplacian {
  LaplacianLayer<C> layer;
  C* stacked;  // ((dim + 2) rows, width): h, Laplacian, Jacobian; unused at the last layer
  MlpHead<C> head;
  C* score;  // (rows, dim), at the last layer
  C* trace;  // (rows), at the last layer
};

// The reverse of MlpLaplacian: from gradients in h, its Laplacian and its Jacobian to those in z, l and J. At the last
// layer the former are the head's weights times the gradients in the network's value, trace and score.
template <class C>
struct MlpLaplacianReverse {
  LaplacianLayer<C> layer;
  const C* weight;    // (width), the head's; null below the last layer
  const C* upstream;  // ((dim + 2) rows), at the last layer: in the value, the trace, the score
  C* grads;           // ((dim + 2) rows, width): read, except at the last layer, and overwritten
};

constexpr int64_t kMaxLaplacianDim = 64;

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

template <class C>
void mlp_forward(const MlpForward<C>& args, void* stream);
template <class C>
void mlp_reverse(const MlpReverse<C>& args, void* stream);
template <class C>
void mlp_laplacian(const MlpLaplacian<C>& args, void* stream);
template <class C>
void mlp_laplacian_reverse(const MlpLaplacianReverse<C>& args, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
