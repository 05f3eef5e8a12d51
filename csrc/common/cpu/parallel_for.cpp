#include "common/cpu/parallel_for.h"

#include <torch/csrc/stable/ops.h>

namespace svgdx::cpu {

void parallel_for(int64_t begin, int64_t end, int64_t grain, void (*call)(const void* f, int64_t begin, int64_t end),
                  const void* f) {
  torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) { call(f, first, last); });
}

}  // namespace svgdx::cpu
