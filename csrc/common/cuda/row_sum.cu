#include "common/cuda/row_sum.cuh"

namespace svgdx::cuda {

template void row_sum(int64_t, int64_t, const float*, float, PerBatch<float>, float*, void*);
template void row_sum(int64_t, int64_t, const double*, double, PerBatch<double>, double*, void*);

}  // namespace svgdx::cuda
