// The CPU has no device to guard and no stream.
#pragma once

#include "common/parallel_blocks.h"
#include "common/tensors.h"

namespace svgdx::cpu {

struct Guard {
  explicit Guard(const Tensor&) {}
};

inline void* stream(const Tensor&) { return nullptr; }

// Rows and numbers of a matrix at a time between a product and the pass over its rows: few enough to stay in the cache.
constexpr int64_t kBlockRows = 512, kBlockNumbers = 655360;

// Calls f(begin, end) for ranges of [0, count), which threads share.
template <class F>
void for_blocks(int64_t count, const F& f) {
  parallel_blocks(count, f);
}

}  // namespace svgdx::cpu
