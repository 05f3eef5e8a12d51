#include "trajectory/cuda/sums.cuh"

namespace svgdx::cuda {

template void trajectory_sum(const TrajectoryShape&, const float*, float*, float*, void*);
template void trajectory_sum(const TrajectoryShape&, const double*, double*, double*, void*);
void check_offsets(int64_t segments, int64_t rows, const int64_t* offsets, int32_t* valid, void* stream) {
  launch_check_offsets(segments, rows, offsets, valid, stream);
}
template void segment_sum(int64_t, const int64_t*, const int32_t*, const float*, float*, void*);
template void segment_sum(int64_t, const int64_t*, const int32_t*, const double*, double*, void*);

}  // namespace svgdx::cuda
