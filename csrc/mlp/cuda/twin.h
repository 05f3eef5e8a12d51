// The passes over rows between the matrix products for the minimum of two multilayer perceptrons. Both networks are
// evaluated and differentiated at all N rows, and each row is chosen at the end, so that nothing depends on a value
// that the host would have to wait for. The 2 N rows are those of the first network, then those of the second. All
// arrays are contiguous unless a pitch is given; C is float or double.
#pragma once

#include <cstdint>

#include "mlp/activation.h"

namespace svgdx::cuda {

// A hidden layer: a(z), and its derivatives in t at x + t v. An array with derivatives has the shape
// (2, 1 + orders, N, width): the values of a network, then its derivatives.
template <class C>
struct TwinLayer {
  int64_t rows, width;  // N
  int orders, given;    // 0, 1 or 2; `given` of z: in the first layer the second derivative is 0
  Activation activation;
  const C* product;  // (2, 1 + given, N, width): the argument z without its shift
  const C* shift;    // row r of 2 N adds entry r / group, `pitch` numbers apart
  int64_t group, pitch;
  C* value;  // (2, 1 + orders, N, width); null if not requested
  C* saved;  // (2 N, width): a(z) alone; null if not requested
  // The last layer alone:
  const C* head;       // weight (width), then bias, of the first network; null below the last layer
  int64_t head_pitch;  // to those of the second network
  C* output;           // (2 N): the networks' values
  C* grad;             // (2, 1 + orders, N, width): their gradient in z; null if not requested
};

// Back through a hidden layer: from the gradient in a(z), and its derivatives in t, to those in z.
template <class C>
struct TwinBack {
  int64_t rows, width;
  int orders, given;
  Activation activation;
  const C* value;    // (2, 1 + orders, N, width): a(z)
  const C* product;  // (2, 1 + given, N, width): the derivatives of z
  const C* grad;     // (2, 1 + orders, N, width)
  C* out;            // (2, 1 + orders, N, width)
  C* saved;          // (2 N, width): the gradient in a(z) alone; null if not requested
};

// Derivatives in t of a hidden layer at x + t v: from those of z, h' and h'', to those of a(z). An array of derivatives
// has the shape (2, orders, N, width).
template <class C>
struct TwinAlong {
  int64_t rows, width;
  int orders, given;  // 1 or 2; `given` of h: in the first layer h'' is 0
  Activation activation;
  const C* value;  // (2 N, width): a(z)
  const C* h;      // (2, given, N, width)
  C* out;          // (2, orders, N, width)
  // Back through the layer instead: from derivatives of the gradient in a(z) to those of the gradient in z.
  const C* back;  // (2 N, width): the gradient in a(z); or null at the last layer, where it is the head's weight
  const C* head;
  int64_t head_pitch;
  const C* grad;  // (2, orders, N, width); null at the last layer, where it is 0
};

// Chooses the network with the smaller value; as in torch.minimum, NaN counts as the smaller.
template <class C>
struct TwinMinimum {
  int64_t rows, dim;
  const C* output;  // (2 N)
  const C* grad;    // (2 N, dim), or null
  C* value;         // (N)
  C* score;         // (N, dim), or null
  int32_t* order;   // (N): 0 for the first network, ~0 for the second; or null
};

template <class C>
struct TwinChoice {
  int64_t rows, dim;
  int orders;
  const int32_t* order;
  const C* derivatives;  // (2, orders, N, dim)
  C* out[2];             // (N, dim) for each order
};

template <class C>
void twin_layer(const TwinLayer<C>& args, void* stream);
template <class C>
void twin_back(const TwinBack<C>& args, void* stream);
template <class C>
void twin_along(const TwinAlong<C>& args, void* stream);
template <class C>
void twin_along_back(const TwinAlong<C>& args, void* stream);
template <class C>
void twin_minimum(const TwinMinimum<C>& args, void* stream);
template <class C>
void twin_choice(const TwinChoice<C>& args, void* stream);

}  // namespace svgdx::cuda
