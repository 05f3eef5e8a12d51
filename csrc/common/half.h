// The two 16-bit floating-point formats as storage: widened to float when read, rounded to nearest even when written.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/hd.h"

namespace svgdx {

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

// float for 16-bit storage, otherwise the storage type itself.
template <class S>
using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

SVGDX_HD float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
SVGDX_HD uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

SVGDX_HD float widen(float v) { return v; }
SVGDX_HD double widen(double v) { return v; }
SVGDX_HD float widen(Bf16 v) { return float_of_bits(uint32_t(v.bits) << 16); }
// A multiplication shifts the exponent, which also normalises subnormal numbers; branch-free, so that it vectorises.
SVGDX_HD float widen(Fp16 v) {
  const uint32_t magnitude = uint32_t(v.bits & 0x7fffu) << 13, sign = uint32_t(v.bits & 0x8000u) << 16;
  const uint32_t finite = bits_of_float(float_of_bits(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  return float_of_bits((magnitude >= 0x0f800000u ? special : finite) | sign);
}

template <class S>
SVGDX_HD S narrow(Compute<S> value) {
  if constexpr (std::is_same_v<S, Bf16>) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = (bits >> 16) | 0x40u;
    return {uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
  } else if constexpr (std::is_same_v<S, Fp16>) {
    const uint32_t bits = bits_of_float(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    // Below 2^-14, adding 1/2 leaves the rounded multiple of 2^-24 in the low bits.
    const uint32_t small = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return {uint16_t((magnitude >= 0x477ff000u ? large : magnitude < 0x38800000u ? small : normal) | sign)};
  } else {
    return value;
  }
}

}  // namespace svgdx
