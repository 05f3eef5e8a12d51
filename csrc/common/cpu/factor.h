// The second factor of many products with one matrix: packed once, in the order in which the kernel reads it. A library
// packs it in every call, which takes a third of the time of a product of 64 rows.
#pragma once

#include "common/cpu/multiply.h"
#include "common/cpu/product_kernel.h"
#include "common/isa.h"
#include "common/storage.h"

namespace svgdx::cpu {

// A dense matrix over borrowed memory.
template <class S>
Tensor over(const S* memory, int64_t rows, int64_t cols) {
  constexpr ScalarType kType = std::is_same_v<S, double>  ? ScalarType::Double
                               : std::is_same_v<S, float> ? ScalarType::Float
                               : std::is_same_v<S, Bf16>  ? ScalarType::BFloat16
                                                          : ScalarType::Half;
  const Sizes sizes{rows, cols}, strides{cols, 1};
  return torch::stable::from_blob(const_cast<S*>(memory), sizes, strides,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), kType);
}

template <class S>
class Factor {
  using C = Compute<S>;
  static constexpr bool kPacks = std::is_same_v<S, C>;
  // Rows from which packing is worth its time.
  static constexpr int64_t kFewRows = 32;

 public:
  // b (K, C) of any strides, multiplied by `rows` rows in all.
  Factor(const Tensor& b, int64_t rows) : b_(b), inner_(b.size(0)), width_(b.size(1)) {
    if constexpr (kPacks) {
      // Without the instructions of AVX2 a library's own choice is better.
      if (rows < kFewRows || active_isa() == Isa::baseline) return;
      const int64_t numbers = SVGDX_ISA_CALL(packed_numbers<C>, inner_, width_);
      packed_ = new_empty(b, {numbers}, b.scalar_type());
      const C* from = data<C>(b);
      SVGDX_ISA_CALL(pack_factor, inner_, width_, from, b.stride(0), b.stride(1), out<C>(*packed_));
    }
  }

  // out (R, C) = f(a (R, K) b + bias (C)), f(v) = max(v, slope v); a and out are dense, bias may be null.
  void multiply(int64_t rows, const S* a, S* out, const C* bias = nullptr, C slope = C(1)) const {
    if (packed_) {
      if constexpr (kPacks) {
        const PackedProduct<C> args{rows, inner_, width_, a, inner_, 1, data<C>(*packed_), bias, slope, false, out};
        SVGDX_ISA_CALL(packed_product, args);
      }
      return;
    }
    OptionalTensor shift;
    if (bias) shift = torch::stable::reshape(over(bias, 1, width_), {width_});
    cpu::multiply(over(a, rows, inner_), b_, over(out, rows, width_), shift, slope);
  }

  void multiply(const Tensor& a, const Tensor& to, const OptionalTensor& bias = std::nullopt) const {
    multiply(a.size(0), data<S>(a), out<S>(to), data<C>(bias));
  }

 private:
  Tensor b_;
  int64_t inner_, width_;
  OptionalTensor packed_;
};

// sums (K, C) += the transpose of a (R, K) times b (R, C), all dense.
template <class C>
void add_transposed_product(int64_t rows, int64_t inner, int64_t width, const C* a, const C* b, C* packed, C* sums) {
  SVGDX_ISA_CALL(pack_factor, rows, width, b, width, 1, packed);
  const PackedProduct<C> args{inner, rows, width, a, 1, inner, packed, nullptr, C(1), true, sums};
  SVGDX_ISA_CALL(packed_product, args);
}

}  // namespace svgdx::cpu
