#include "draw/cuda/numbers.cuh"

namespace svgdx::cuda {

void integers(const IntegerArgs& args, void* stream) {
  launch_numbers<int64_t>("integers", args.count, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH(integers_kernel, grid, kNumberThreads, 0, stream, args, first);
  });
}

#define SVGDX_INSTANTIATE(S)                          \
  template void uniform(const NumberArgs<S>&, void*); \
  template void normal(const NumberArgs<S>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::cuda
