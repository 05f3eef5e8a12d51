// The per-element mathematics of the probe estimators, shared by both backends.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/philox.h"

namespace svgdx {

// One Philox block gives 128 signs: element i uses bit i % 128 of the block with counter i / 128.
constexpr int64_t kSignsPerBlock = 128;
constexpr int kSignsPerWord = 32;

// +1 if the bit is clear, -1 if it is set: the bit becomes the number's sign bit.
template <class S>
SVGDX_HD S sign_of(uint32_t word, int bit) {
  const uint32_t sign = word >> bit & 1u;
  if constexpr (std::is_same_v<S, double>) {
    const uint64_t bits = uint64_t(0x3ff00000u | sign << 31) << 32;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
  } else if constexpr (std::is_same_v<S, float>) {
    return float_of_bits(0x3f800000u | sign << 31);
  } else {
    return {uint16_t((std::is_same_v<S, Bf16> ? 0x3f80u : 0x3c00u) | sign << 15)};
  }
}

// Adds the (count + 1)th value to a running mean and sum of squared deviations (Welford, Technometrics 1962). Unlike a
// difference of sums, the variance stays accurate if the mean is much larger.
template <class C>
SVGDX_HD void add_to_moments(C value, int64_t count, C& mean, C& squares) {
  const C off = value - mean;
  mean += off / C(count + 1);
  squares += off * (value - mean);
}

// The sample variance, with divisor V - 1; NaN for a single value.
template <class C>
SVGDX_HD C sample_variance(C squares, int64_t probes) {
  return probes > 1 ? squares / C(probes - 1) : C(__builtin_nanf(""));
}

// The derivative of grad * mean in the value of one of V probes.
template <class C>
SVGDX_HD C mean_grad(int64_t probes, C grad) {
  return grad / C(probes);
}

// The derivative of grad * variance in the value of one of V probes.
template <class C>
SVGDX_HD C variance_grad(C value, C mean, int64_t probes, C grad) {
  return grad * C(2) * (value - mean) / C(probes - 1);
}

}  // namespace svgdx
