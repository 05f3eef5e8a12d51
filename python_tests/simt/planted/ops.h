// An op of the test library with the mistakes that a host layer can make, for the tests of backend.py.
#pragma once

#include <cstdint>

namespace svgdx::cuda {

enum Mistake : int64_t {
  kNone,
  kNoGuard,
  kDefaultStream,
  kNoCheck,
  kPastTheEnd,
  kUnwritten,
  kHostMemory,
  kEmptyInput,
  kEmptyGrid,
  kTooMuchShared,
  kTorchReadsUnwritten,
};

// out = 2 x, for n numbers.
void planted_twice(int64_t mistake, int64_t n, const float* x, float* out, void* stream);

}  // namespace svgdx::cuda
