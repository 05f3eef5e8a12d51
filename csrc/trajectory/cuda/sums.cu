#include "trajectory/cuda/sums.cuh"

namespace svgdx::cuda {

template void trajectory_sum(const TrajectoryShape&, const float*, float*, float*, void*);
template void trajectory_sum(const TrajectoryShape&, const double*, double*, double*, void*);
template void segment_sum(int64_t, int64_t, const int64_t*, const float*, float*, void*);
template void segment_sum(int64_t, int64_t, const int64_t*, const double*, double*, void*);

}  // namespace svgdx::cuda
