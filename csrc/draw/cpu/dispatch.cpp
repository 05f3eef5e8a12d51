// The CPU backend of random numbers and of the sampling ops: torch's threads share tiles and rows.
#include <torch/csrc/stable/ops.h>

#include "draw/cpu/kernels.h"
#include "draw/numbers.h"

namespace svgdx::cpu {
namespace {

// Calls f(begin, end) for tiles; 64 of them keep a thread busy for a few microseconds.
template <class S, class F>
void for_tiles(int64_t count, F f) {
  torch::stable::parallel_for(0, (count + kTileNumbers<S> - 1) / kTileNumbers<S>, 64, f);
}

}  // namespace

template <class S>
void uniform(const NumberArgs<S>& args, void*) {
  for_tiles<S>(args.count, [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(uniform, args, begin, end); });
}

template <class S>
void normal(const NumberArgs<S>& args, void*) {
  for_tiles<S>(args.count, [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(normal, args, begin, end); });
}

void integers(const IntegerArgs& args, void*) {
  for_tiles<int64_t>(args.count, [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(integers, args, begin, end); });
}

template <class S>
void gfn_sample(const SampleArgs<S>& args, void*) {
  torch::stable::parallel_for(0, args.batch, 1 + (int64_t(1) << 13) / (1 + 3 * args.dim),
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(gfn_sample, args, begin, end); });
}

#define SVGDX_INSTANTIATE(S)                          \
  template void uniform(const NumberArgs<S>&, void*); \
  template void normal(const NumberArgs<S>&, void*);  \
  template void gfn_sample(const SampleArgs<S>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::cpu
