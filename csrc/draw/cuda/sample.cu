#include "draw/cuda/sample.cuh"

namespace svgdx::cuda {

template void gfn_sample(const SampleArgs<float>&, void*);
template void gfn_sample(const SampleArgs<double>&, void*);
template void gfn_sample(const SampleArgs<Bf16>&, void*);
template void gfn_sample(const SampleArgs<Fp16>&, void*);

}  // namespace svgdx::cuda
