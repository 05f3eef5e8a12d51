#include "common/cuda/launch.cuh"
#include "planted/ops.h"

namespace svgdx::cuda {

static __global__ void twice_kernel(const float* x, float* out, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = 2.0f * x[i];  // due: past_the_end host_memory empty_input
}

void planted_twice(int64_t mistake, int64_t n, const float* x, float* out, void* stream) {
  if (mistake == kPastTheEnd) ++n;
  if (mistake == kUnwritten || mistake == kTorchReadsUnwritten) --n;
  const auto grid = unsigned(mistake == kEmptyGrid ? 0 : ceil_div(n, 64));
  const size_t shared = mistake == kTooMuchShared ? size_t(1) << 20 : 0;
  SVGDX_LAUNCH((twice_kernel), grid, 64, shared, mistake == kDefaultStream ? nullptr : stream, x, out, n);
  if (mistake != kNoCheck) SVGDX_LAUNCH_CHECK("planted_twice");
}

}  // namespace svgdx::cuda
