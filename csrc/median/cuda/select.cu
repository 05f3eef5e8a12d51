#include "median/cuda/select.cuh"

namespace svgdx::cuda {

int64_t median_distance_scratch(int64_t batch, int64_t particles, int64_t dim) {
  return median_scratch_bytes(batch, particles, dim);
}
template void median_distance(int64_t, int64_t, int64_t, const float*, float*, void*, void*);
template void median_distance(int64_t, int64_t, int64_t, const double*, double*, void*, void*);

}  // namespace svgdx::cuda
