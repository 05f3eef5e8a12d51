// Products of two matrices on the CPU, by the fastest exact route on this machine.
#pragma once

#include "common/tensors.h"

namespace svgdx::cpu {

enum class ProductRoute { torch, onednn };

// The route of large float32 products: torch's mm, or oneDNN's linear layer inside torch where it is much faster.
// torch's mm is MKL, which uses half the width of an AMD processor's AVX-512 units. The first large product of a
// process measures both; the environment variable SVGDX_PRODUCTS (torch or onednn) decides without a measurement.
ProductRoute product_route();

// What a measurement of both routes shows.
struct ProductRates {
  double torch = 0, onednn = 0;  // GFLOP/s of one thread; 0 if this torch has no oneDNN
  bool exact = false;            // whether oneDNN's result is that of float32 arithmetic
};
ProductRates measure_products();

// out (R, C) = f(a (R, K) times b (K, C) + bias (C)), f(v) = max(v, slope v), on the calling thread, with the same bits
// for any number of threads that torch has. bias has the compute type of a; rows of out are contiguous.
void multiply(const Tensor& a, const Tensor& b, const Tensor& out, const OptionalTensor& bias = std::nullopt,
              double slope = 1);

}  // namespace svgdx::cpu
