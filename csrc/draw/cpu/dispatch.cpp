// The CPU backend of the sampling ops: torch's threads share the rows.
#include <torch/csrc/stable/ops.h>

#include "draw/cpu/kernels.h"

namespace svgdx::cpu {

template <class S>
void gfn_sample(const SampleArgs<S>& args, void*) {
  torch::stable::parallel_for(0, args.batch, 1 + (int64_t(1) << 13) / (1 + 3 * args.dim),
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(gfn_sample, args, begin, end); });
}

template void gfn_sample(const SampleArgs<float>&, void*);
template void gfn_sample(const SampleArgs<double>&, void*);
template void gfn_sample(const SampleArgs<Bf16>&, void*);
template void gfn_sample(const SampleArgs<Fp16>&, void*);

}  // namespace svgdx::cpu
