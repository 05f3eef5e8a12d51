// Draws actions so that every backend draws the same ones: arithmetic that rounds identically everywhere turns the
// probabilities into integers, whose sum does not depend on the order. On the host this requires -ffp-contract=off, see
// common/rounded.h.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/philox.h"
#include "common/rounded.h"

namespace svgdx {

// 2^30 e^(below / temperature), truncated to an integer, where `below` <= 0 is the logit minus the largest valid one
// and scale = log2(e) / temperature. An action less than 2^-30 times as likely as the likeliest is never drawn.
SVGDX_HD uint32_t draw_weight(float below, float scale) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float wide = rounded_mul(below, scale);
  const float y = wide > -32.0f ? wide : -32.0f;
  const float rounded = rounded_add(y, magic);
  const float f = rounded_add(y, -rounded_add(rounded, -magic));
  float p = 1.3264727e-3f;  // 2^f on [-1/2, 1/2], as in common/vec.h
  p = rounded_add(rounded_mul(p, f), 9.6715130e-3f);
  p = rounded_add(rounded_mul(p, f), 5.5507336e-2f);
  p = rounded_add(rounded_mul(p, f), 2.4022242e-1f);
  p = rounded_add(rounded_mul(p, f), 6.9314700e-1f);
  p = rounded_add(rounded_mul(p, f), 1.0f);
  const uint32_t shift = bits_of_float(rounded) - bits_of_float(magic) + 30u;
  return uint32_t(int32_t(float_of_bits(bits_of_float(p) + (shift << 23))));
}

// The random numbers of row b: a 64-bit fraction that selects the action, and whether to draw uniformly.
struct Draw {
  uint64_t fraction;
  bool uniform;
};

SVGDX_HD Draw draw_of(uint64_t seed, uint64_t offset, int64_t row, float epsilon) {
  const PhiloxWords words = philox(seed, uint64_t(row), offset);
  return {uint64_t(words.w[1]) << 32 | words.w[0], float(words.w[2] >> 8) * 0x1p-24f < epsilon};
}

// floor(total * fraction / 2^64); the drawn action is the first whose cumulative weight exceeds it.
SVGDX_HD uint64_t draw_threshold(uint64_t fraction, uint64_t total) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(fraction, total);
#else
  return uint64_t((unsigned __int128)(fraction)*total >> 64);
#endif
}

}  // namespace svgdx
