// Host-only helper of gpu_static.py: CUDA's occupancy calculator, and the launch plans of the kernels' own headers.
// Reads commands from standard input, one per line, and answers each with one line:
//   occupancy MAJOR MINOR REGISTERS SHARED THREADS BARRIERS   -> resident warps per multiprocessor, and its maximum
//   forward | backward | jacobian BATCH ROWS COLS DIM         -> JSON of the plan
#include <cuda_occupancy.h>

#include <iostream>
#include <string>
#include <utility>

#include "field/cuda/backward.cuh"
#include "field/cuda/forward.cuh"
#include "jacobian/cuda/matrix.h"
#include "jacobian/cuda/tile.cuh"

namespace {

using svgdx::FieldShape;

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
cudaOccDeviceProp device(int major, int minor) {
  const bool consumer = major == 12 || (major == 8 && minor != 0);
  if (major < 8 || (major == 8 && minor == 7)) throw std::runtime_error("limits of this architecture are not listed");
  cudaOccDeviceProp p;
  p.computeMajor = major;
  p.computeMinor = minor;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiprocessor = consumer ? 1536 : 2048;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerMultiprocessor = (consumer ? 100 : major == 8 ? 164 : 228) << 10;
  p.reservedSharedMemPerBlock = 1 << 10;
  p.sharedMemPerBlockOptin = p.sharedMemPerMultiprocessor - p.reservedSharedMemPerBlock;
  p.numSms = 1;  // not used for one multiprocessor
  return p;
}

void occupancy() {
  int major, minor, registers, shared, threads, barriers;
  std::cin >> major >> minor >> registers >> shared >> threads >> barriers;
  const cudaOccDeviceProp properties = device(major, minor);
  cudaOccFuncAttributes attributes;
  attributes.maxThreadsPerBlock = threads;
  attributes.numRegs = registers;
  attributes.sharedSizeBytes = shared;
  attributes.numBlockBarriers = barriers;
  const cudaOccDeviceState state;
  cudaOccResult result;
  const auto error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &properties, &attributes, &state, threads, 0);
  if (error != CUDA_OCC_SUCCESS) throw std::runtime_error("the occupancy calculator refuses the kernel or the device");
  std::cout << result.activeBlocksPerMultiprocessor * ((threads + 31) / 32) << ' '
            << properties.maxThreadsPerMultiprocessor / 32 << '\n';
}

void print_large(const FieldShape& shape) {
  namespace cuda = svgdx::cuda;
  const cuda::LargePlan plan = cuda::plan_large_forward(shape);
  int launches = 0;
  cuda::ValuePlan values{};
  cuda::for_each_block(shape, plan, [&](const auto& block, bool, bool) {
    ++launches;
    values = cuda::plan_values(block);
  });
  std::cout << "{\"large\": true, \"launches\": " << launches << ", \"batches\": " << plan.batches
            << ", \"rows\": " << plan.rows << ", \"cols\": " << plan.cols << ", \"dim_splits\": " << plan.dim_splits
            << ", \"dims_per_split\": " << plan.dims_per_split << ", \"parts\": " << plan.parts
            << ", \"cols_per_part\": " << plan.cols_per_part << ", \"value_rows\": " << values.rows()
            << ", \"value_groups\": " << values.groups()
            << ", \"expanded\": " << (cuda::is_expanded<float>(shape) ? "true" : "false") << "}\n";
}

void print_expanded_grad(const FieldShape& shape) {
  const svgdx::cuda::ExpandedGradPlan plan = svgdx::cuda::plan_expanded_grad(shape);
  std::cout << "{\"large\": true, \"batches\": " << plan.batches << ", \"rows\": " << plan.rows
            << ", \"dim_splits\": " << plan.dim_splits << ", \"dims_per_split\": " << plan.dims_per_split
            << ", \"parts\": " << plan.parts << ", \"cols_per_part\": " << plan.cols_per_part << "}\n";
}

void print_small(const FieldShape& shape, int threads) {
  const svgdx::cuda::FieldPlan plan = svgdx::cuda::plan_field(shape, threads);
  std::cout << "{\"large\": false, \"grid\": " << plan.blocks << ", \"splits\": " << plan.splits
            << ", \"threads\": " << plan.threads << ", \"lanes\": " << plan.lanes
            << ", \"cols\": " << plan.cols_per_split << "}\n";
}

void print_fused(const svgdx::cuda::FusedPlan& plan, int padded_dim, int tile_cols, size_t shared) {
  std::cout << "{\"fused\": " << padded_dim << ", \"grid\": " << plan.blocks << ", \"splits\": " << plan.splits
            << ", \"warp_rows\": " << plan.warp_rows << ", \"row_warps\": " << plan.row_warps
            << ", \"cols\": " << plan.cols_per_split << ", \"tile_cols\": " << tile_cols << ", \"shared\": " << shared
            << "}\n";
}

void print_fused_forward(const FieldShape& shape) {
  namespace cuda = svgdx::cuda;
  const cuda::FusedPlan plan = cuda::plan_fused(shape);
  cuda::dispatch_fused(shape.dim, [&](auto p) {
    const size_t shared =
        p() <= 32 ? cuda::NarrowTile<p()>::bytes(plan.warp_rows) : cuda::FusedTile<p()>::bytes(plan.rows_per_block());
    print_fused(plan, p(), cuda::fused_cols(p()), shared);
  });
}

void print_fused_backward(const FieldShape& shape) {
  namespace cuda = svgdx::cuda;
  const cuda::FusedPlan plan = cuda::plan_fused_grad(shape);
  cuda::dispatch_fused<cuda::kFusedGradDims>(shape.dim, [&](auto p) {
    print_fused(plan, p(), cuda::fused_grad_cols(p()), cuda::FusedGradTile<p()>::bytes(plan.rows_per_block()));
  });
}

void print_jacobian(const FieldShape& shape) {
  namespace cuda = svgdx::cuda;
  svgdx::JacobianArgs<float> args;
  args.batch = shape.batch;
  args.particles = shape.rows;
  args.dim = shape.dim;
  if (shape.dim > 16) {
    std::cout << "{\"matrix\": " << (cuda::forms_matrix(args) ? cuda::matrix_dims(shape.dim) : 0) << "}\n";
    return;
  }
  cuda::dispatch_dims(shape.dim, [&](auto dims) {
    constexpr int kLanes = decltype(dims)::kValue / 2;
    const auto plan = cuda::plan_jacobian(args.batch, args.particles, kLanes, cuda::kJacobianCols / kLanes);
    std::cout << "{\"grid\": " << plan.blocks << ", \"particles\": " << plan.particles_per_block
              << ", \"slices\": " << plan.slices << ", \"lanes\": " << kLanes << "}\n";
  });
}

void plan(const std::string& command) {
  namespace cuda = svgdx::cuda;
  FieldShape shape;
  std::cin >> shape.batch >> shape.rows >> shape.cols >> shape.dim;
  if (command == "jacobian") return print_jacobian(shape);
  if (command == "forward") {
    if (cuda::is_fused(shape)) return print_fused_forward(shape);
    if (shape.dim > cuda::kForwardDims) return print_large(shape);
    return print_small(shape, cuda::kForwardThreads);
  }
  if (cuda::is_fused_backward(shape)) return print_fused_backward(shape);
  if (shape.dim > cuda::kBackwardDims<float>) return print_expanded_grad(shape);
  print_small(shape, cuda::kBackwardThreads);
}

}  // namespace

int main() {
  std::string command;
  while (std::cin >> command) {
    if (command == "occupancy") {
      occupancy();
    } else {
      plan(command);
    }
  }
}
