// Loops over blocks of work in which each thread calls torch's own ops.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace svgdx {

// Calls f(begin, end) for ranges of [0, count), one block at least per thread. At least two items make the loop a
// parallel region, in which torch's products stay on their own thread.
template <class F>
void parallel_blocks(int64_t count, const F& f) {
  torch::stable::parallel_for(0, std::max<int64_t>(2, count), 1,
                              [&](int64_t begin, int64_t end) { f(begin, std::min(end, count)); });
}

}  // namespace svgdx
