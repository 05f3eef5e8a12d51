// Philox4x32-10, the counter-based generator of Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
// Every backend generates the same words: a draw depends only on seed and counter.
#pragma once

#include <cstdint>

#include "common/hd.h"

namespace svgdx {

struct PhiloxWords {
  uint32_t w[4];
};

// What selects a draw: two numbers, or those of device memory, which a captured CUDA graph reads at each replay.
struct PhiloxKey {
  uint64_t seed, offset;
  const int64_t* words = nullptr;  // (2): the seed, and a number added to the offset; null if there are none

  SVGDX_HD PhiloxKey loaded() const {
    return words == nullptr ? *this : PhiloxKey{uint64_t(words[0]), uint64_t(words[1]) + offset};
  }
};

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

// Four random words for the 128-bit counter (counter_low, counter_high).
SVGDX_HD PhiloxWords philox(uint64_t seed, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  uint32_t c0 = uint32_t(counter_low), c1 = uint32_t(counter_low >> 32);
  uint32_t c2 = uint32_t(counter_high), c3 = uint32_t(counter_high >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(kPhiloxMultiplier0) * c0, b = uint64_t(kPhiloxMultiplier1) * c2;
    c0 = uint32_t(b >> 32) ^ c1 ^ k0;
    c2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c1 = uint32_t(b);
    c3 = uint32_t(a);
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

SVGDX_HD PhiloxWords philox(const PhiloxKey& key, uint64_t counter) { return philox(key.seed, counter, key.offset); }

}  // namespace svgdx
