#include "probe/cuda/rademacher.cuh"

namespace svgdx::cuda {

template void rademacher(const SignArgs<float>&, void*);
template void rademacher(const SignArgs<double>&, void*);
template void rademacher(const SignArgs<Bf16>&, void*);
template void rademacher(const SignArgs<Fp16>&, void*);

}  // namespace svgdx::cuda
