// torch's parallel_for for kernels that need nothing else of torch, whose headers take a second to compile.
#pragma once

#include <cstdint>

namespace svgdx::cpu {

void parallel_for(int64_t begin, int64_t end, int64_t grain, void (*call)(const void* f, int64_t begin, int64_t end),
                  const void* f);

// Calls f(begin, end) for ranges of at least `grain` items, shared among torch's threads.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  const auto call = [](const void* function, int64_t first, int64_t last) {
    (*static_cast<const F*>(function))(first, last);
  };
  parallel_for(begin, end, grain, +call, &f);
}

}  // namespace svgdx::cpu
