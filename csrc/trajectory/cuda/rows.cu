#include "trajectory/cuda/rows.cuh"

namespace svgdx::cuda {

void trajectory_set_times(const SetTimeArgs& args, void* stream) {
  const unsigned threads = args.shape.dim <= 32 ? 32 : args.shape.dim <= 256 ? 64 : kSetTimeThreads;
  launch_blocks("gfn_trajectory_log_prob", args.shape.batch, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH(set_times_kernel, grid, threads, 0, stream, args, first);
  });
}

template void trajectory_rows(const TrajectoryRows<float>&, void*);
template void trajectory_rows(const TrajectoryRows<double>&, void*);
template void trajectory_rows(const TrajectoryRows<Bf16>&, void*);
template void trajectory_rows(const TrajectoryRows<Fp16>&, void*);
template void trajectory_rows_backward(const TrajectoryRowsGrad<float>&, void*);
template void trajectory_rows_backward(const TrajectoryRowsGrad<double>&, void*);
template void trajectory_rows_backward(const TrajectoryRowsGrad<Bf16>&, void*);
template void trajectory_rows_backward(const TrajectoryRowsGrad<Fp16>&, void*);

}  // namespace svgdx::cuda
