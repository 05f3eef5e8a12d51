// The passes over rows between the matrix products for the minimum of two multilayer perceptrons, for one SIMD level.
// All arrays are contiguous; C is float or double.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "mlp/activation.h"

namespace svgdx {

// A hidden layer of one network, for a range of rows.
template <class C>
struct MinimumLayer {
  int64_t rows, width;
  Activation activation;
  const C* product;  // (rows, width): the argument z without its shift
  const C* shift;    // its shift in row r: entry (first + r) / group of (B, width); with group 0 the bias alone
  int64_t first, group;
  C* value;              // (rows, width): a(z); null if not requested
  const C* head_weight;  // (width) at the last layer, otherwise null
  const C* head_bias;    // (1)
  C* output;             // (rows): the network's value
};

// Back through a hidden layer: from the gradient in a(z) to that in z. Derivatives of a are computed from its value.
template <class C>
struct MinimumBack {
  int64_t rows, width;
  Activation activation;
  const C* value;        // (., width) of a block: a(z)
  const int32_t* order;  // (rows): the row of the block to read
  const C* grad;         // (rows, width), or (width), shared by all rows, at the last layer
  bool shared;
  C* out;   // (rows, width)
  C* kept;  // (rows, width): the values in this order; null if not requested
};

// Derivatives in t of a hidden layer at x + t v: from those of z, denoted h, to those of a(z).
template <class C>
struct AlongLayer {
  int64_t count;
  Activation activation;
  const C *first, *second;        // (count): h', h''; h'' null means zero, as in the first layer
  const C* value;                 // (count): a(z)
  C *value_first, *value_second;  // (count); value_second is null if the order is 1
};

// The same in the reverse sweep: from derivatives of the gradient in a(z) to those of the gradient in z.
template <class C>
struct AlongBack {
  int64_t rows, width;
  Activation activation;
  const C *first, *second;  // (rows, width): h', h'' of the forward sweep
  const C* value;           // (rows, width): a(z)
  const C* back;            // (rows, width), the gradient in a(z); (width) at the last layer
  bool last;
  const C *grad_first, *grad_second;  // (rows, width); null at the last layer, where both are 0
  C *out_first, *out_second;          // (rows, width); out_second is null if the order is 1
};

}  // namespace svgdx

SVGDX_ISA_DECLARE(template <class C> void minimum_layer(const MinimumLayer<C>& args);
                  template <class C> void minimum_back(const MinimumBack<C>& args);
                  template <class C> void along_layer(const AlongLayer<C>& args);
                  template <class C> void along_back(const AlongBack<C>& args);)
