// Random numbers from Philox words: uniform and normal numbers and integers, the same bits on every backend. On the
// host this requires -ffp-contract=off, see common/rounded.h.
//
// A tile is kTileBlocks Philox blocks. Number j of block b is number j * kTileBlocks + b % kTileBlocks of tile
// b / kTileBlocks, so that the lanes of a vector and the threads of a warp write side by side.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/philox.h"
#include "common/rounded.h"

namespace svgdx {

constexpr int kTileBlocks = 32;

// Numbers of one Philox block: a float64 or an integer takes two words, any other number one.
template <class S>
constexpr int kBlockNumbers = sizeof(S) == 8 ? 2 : 4;
template <class S>
constexpr int kTileNumbers = kTileBlocks * kBlockNumbers<S>;

SVGDX_HD double double_of_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
SVGDX_HD uint64_t bits_of_double(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The integer as a double, exactly: the bits of 2^52 + value.
SVGDX_HD double exact_double(uint32_t value) { return double_of_bits(0x4330000000000000u | value) - 0x1p52; }

// The upper 53 of 64 bits, as a fraction in [0, 1).
SVGDX_HD double fraction53(uint32_t high, uint32_t low) {
  return rounded_add(rounded_mul(exact_double(high), 0x1p-32), rounded_mul(exact_double(low >> 11), 0x1p-53));
}

// ---- Uniform numbers, multiples of the spacing below 1 in [0, 1)
// -------------------------------------------------------

template <class S>
constexpr int kUniformBits = std::is_same_v<S, float>  ? 24
                             : std::is_same_v<S, Fp16> ? 11
                                                       : 8;

template <class S>
SVGDX_HD void uniform_numbers(const PhiloxWords& words, S* numbers) {
  if constexpr (sizeof(S) == 8) {
    numbers[0] = fraction53(words.w[1], words.w[0]);
    numbers[1] = fraction53(words.w[3], words.w[2]);
  } else {
    const float spacing = 1.0f / float(1 << kUniformBits<S>);
    for (int j = 0; j < 4; ++j) {
      numbers[j] = narrow<S>(float(int32_t(words.w[j] >> (32 - kUniformBits<S>))) * spacing);
    }
  }
}

// ---- Normal numbers by Box & Muller, Annals of Mathematical Statistics 1958
// --------------------------------------------

// ln u for 2^-32 <= u <= 1. u = m 2^e with m in [sqrt(1/2), sqrt(2)); the polynomial is that of logf in Cephes.
SVGDX_HD Rounded<float> natural_log(Rounded<float> u) {
  using R = Rounded<float>;
  const uint32_t root_half = 0x3f3504f3u, shifted = bits_of_float(u.value) - root_half;
  const R e = float(int32_t(shifted) >> 23);
  const R f = R(float_of_bits((shifted & 0x7fffffu) + root_half)) - 1.0f;
  const R square = f * f;
  const R p =
      polynomial<float>(f, 7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                        -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f);
  const R tail = p * square * f + R(-2.12194440e-4f) * e - R(0.5f) * square;
  return f + tail + R(0.693359375f) * e;
}

// ln u for 2^-64 <= u <= 1, as log of FreeBSD's libm.
SVGDX_HD Rounded<double> natural_log(Rounded<double> u) {
  using R = Rounded<double>;
  const uint64_t root_half = 0x3fe6a09e00000000u;
  // The exponent's bias of 1023 keeps the shifted number positive.
  const uint64_t shifted = bits_of_double(u.value) - root_half + 0x3ff0000000000000u;
  const R e = exact_double(uint32_t(shifted >> 52)) - 1023.0;
  const R f = R(double_of_bits((shifted & 0xfffffffffffffu) + root_half)) - 1.0;
  const R s = f / (R(2.0) + f), z = s * s, half_square = R(0.5) * f * f;
  const R p = z * polynomial<double>(z, 1.479819860511658591e-1, 1.531383769920937332e-1, 1.818357216161805012e-1,
                                     2.222219843214978396e-1, 2.857142874366239149e-1, 3.999999999940941908e-1,
                                     6.666666666666735130e-1);
  return s * (half_square + p) + e * R(1.90821492927058770002e-10) - half_square + f + e * R(6.93147180369123816490e-1);
}

template <class T>
struct SineCosine {
  Rounded<T> sine, cosine;
};

// For -pi/4 <= x <= pi/4, with the polynomials of Cephes (float) and of FreeBSD's libm (double).
SVGDX_HD SineCosine<float> sine_cosine(Rounded<float> x) {
  using R = Rounded<float>;
  const R z = x * x;
  const R s = polynomial<float>(z, -1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f);
  const R c = polynomial<float>(z, 2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f);
  return {s * z * x + x, c * z * z - R(0.5f) * z + R(1.0f)};
}
SVGDX_HD SineCosine<double> sine_cosine(Rounded<double> x) {
  using R = Rounded<double>;
  const R z = x * x;
  const R s = polynomial<double>(z, 1.58969099521155010221e-10, -2.50507602534068634195e-8, 2.75573137070700676789e-6,
                                 -1.98412698298579493134e-4, 8.33333333332248946124e-3, -1.66666666666666324348e-1);
  const R c = polynomial<double>(z, -1.13596475577881948265e-11, 2.08757232129817482790e-9, -2.75573143513906633035e-7,
                                 2.48015872894767294178e-5, -1.38888888888741095749e-3, 4.16666666666666019037e-2);
  return {s * z * x + x, c * z * z - R(0.5) * z + R(1.0)};
}

SVGDX_HD float with_sign(float value, uint32_t sign) { return float_of_bits(bits_of_float(value) ^ sign); }
SVGDX_HD double with_sign(double value, uint32_t sign) {
  return double_of_bits(bits_of_double(value) ^ uint64_t(sign) << 32);
}

// Two normal numbers from u in (0, 1] and from an angle: x in [-pi/4, pi/4], mirrored at pi/4 if the bit below the top
// one of `turn` is set, and turned by pi if the top one is.
template <class T>
SVGDX_HD void normal_pair(Rounded<T> u, Rounded<T> x, uint32_t turn, T& first, T& second) {
  const T radius = rounded_sqrt((Rounded<T>(-2) * natural_log(u)).value);
  const SineCosine<T> at = sine_cosine(x);
  const bool mirrored = turn >> 30 & 1u;
  const Rounded<T> r = with_sign(radius, turn & 0x80000000u);
  first = (r * (mirrored ? at.sine : at.cosine)).value;
  second = (r * (mirrored ? at.cosine : at.sine)).value;
}

// The magnitude has 30 bits and is at most 6.55, the angle has 32 bits.
SVGDX_HD void normal_pair(uint32_t radius, uint32_t angle, float& first, float& second) {
  using R = Rounded<float>;
  const R u = R(float(int32_t(radius >> 1 | 1u))) * R(0x1p-31f);
  const R x = R(float(int32_t(angle << 2))) * R(1.5707963267948966f * 0x1p-32f);
  normal_pair<float>(u, x, angle, first, second);
}

// The magnitude has 53 bits and is at most 8.65, the angle has 55 bits.
SVGDX_HD void normal_pair(const uint32_t* words, double& first, double& second) {
  using R = Rounded<double>;
  const R u = R(fraction53(words[1], words[0])) + R(0x1p-54);
  const R x = (R(fraction53(words[3] << 2 | words[2] >> 30, words[2] << 2)) - R(0.5)) * R(1.5707963267948966);
  normal_pair<double>(u, x, words[3], first, second);
}

template <class S>
SVGDX_HD void normal_numbers(const PhiloxWords& words, S* numbers) {
  if constexpr (sizeof(S) == 8) {
    normal_pair(words.w, numbers[0], numbers[1]);
  } else {
    for (int j = 0; j < 4; j += 2) {
      float first, second;
      normal_pair(words.w[j], words.w[j + 1], first, second);
      numbers[j] = narrow<S>(first);
      numbers[j + 1] = narrow<S>(second);
    }
  }
}

// ---- Integers
// ----------------------------------------------------------------------------------------------------------

constexpr int64_t kMaxBound = int64_t(1) << 32;

// floor(bound r / 2^64) for a random 64-bit r and 0 < bound <= kMaxBound.
SVGDX_HD int64_t integer_below(uint64_t bound, uint32_t high, uint32_t low) {
  return int64_t((bound * high + (bound * low >> 32)) >> 32);
}

SVGDX_HD void integer_numbers(const PhiloxWords& words, uint64_t bound, int64_t* numbers) {
  numbers[0] = integer_below(bound, words.w[1], words.w[0]);
  numbers[1] = integer_below(bound, words.w[3], words.w[2]);
}

}  // namespace svgdx
