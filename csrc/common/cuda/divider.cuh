// Divides 64-bit block numbers by a divisor known at launch, using a multiplication: the compiler's own 64-bit
// division is a function call, which costs registers and time in every thread.
#pragma once

#include <cstdint>

#include "common/cuda/simt_macros.cuh"
#include "common/hd.h"

namespace svgdx::cuda {

// Exact for 0 <= n < 2^63 and 1 <= divisor < 2^62: with 2^(shift-1) < divisor <= 2^shift the magic number exceeds
// 2^(63+shift) / divisor by less than one part in 2^63.
class Divider {
 public:
  Divider() = default;
  explicit Divider(int64_t divisor) : divisor_(divisor) {
    while ((int64_t(1) << shift_) < divisor) ++shift_;
    magic_ = static_cast<uint64_t>(((Wide(1) << (63 + shift_)) + Wide(divisor) - 1) / Wide(divisor));
  }

  SVGDX_HD int64_t quotient(int64_t n) const {
    return static_cast<int64_t>(static_cast<uint64_t>((Wide(n) * magic_) >> 63) >> shift_);
  }
  // Returns n modulo the divisor and divides n.
  SVGDX_HD int64_t split(int64_t& n) const {
    const int64_t q = quotient(n);
    const int64_t rest = n - q * divisor_;
    n = q;
    return rest;
  }

 private:
  __extension__ typedef unsigned __int128 Wide;
  int64_t divisor_ = 1;
  uint64_t magic_ = uint64_t(1) << 63;
  int shift_ = 0;
};

}  // namespace svgdx::cuda
