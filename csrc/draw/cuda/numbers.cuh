// Random numbers: each thread draws one Philox block, and the threads of a warp write side by side.
#pragma once

#include "common/cuda/launch.cuh"
#include "draw/args.h"
#include "draw/numbers.h"

namespace svgdx::cuda {

constexpr int kNumberThreads = 256;

// Stores number j of a block at its place in the tile.
template <class S>
__device__ inline void store_numbers(const S* numbers, int64_t block, int64_t count, S* out) {
  const int64_t first = block / kTileBlocks * kTileNumbers<S> + block % kTileBlocks;
  SVGDX_UNROLL
  for (int j = 0; j < kBlockNumbers<S>; ++j) {
    const int64_t i = first + j * kTileBlocks;
    if (i < count) out[i] = numbers[j];
  }
}

template <class S>
__global__ void __launch_bounds__(kNumberThreads) uniform_kernel(NumberArgs<S> args, int64_t first_block) {
  const int64_t block = (first_block + blockIdx.x) * kNumberThreads + threadIdx.x;
  S numbers[kBlockNumbers<S>];
  uniform_numbers<S>(philox(args.key.loaded(), uint64_t(block)), numbers);
  store_numbers(numbers, block, args.count, args.out);
}

template <class S>
__global__ void __launch_bounds__(kNumberThreads) normal_kernel(NumberArgs<S> args, int64_t first_block) {
  const int64_t block = (first_block + blockIdx.x) * kNumberThreads + threadIdx.x;
  S numbers[kBlockNumbers<S>];
  normal_numbers<S>(philox(args.key.loaded(), uint64_t(block)), numbers);
  store_numbers(numbers, block, args.count, args.out);
}

__global__ void __launch_bounds__(kNumberThreads) integers_kernel(IntegerArgs args, int64_t first_block) {
  const int64_t block = (first_block + blockIdx.x) * kNumberThreads + threadIdx.x;
  int64_t numbers[kBlockNumbers<int64_t>];
  integer_numbers(philox(args.key.loaded(), uint64_t(block)), args.bound, numbers);
  store_numbers(numbers, block, args.count, args.out);
}

// launch(grid, first_block) for enough threads.
template <class S, class F>
void launch_numbers(const char* op, int64_t count, F launch) {
  launch_blocks(op, ceil_div(count, int64_t(kBlockNumbers<S>) * kNumberThreads), launch);
}

template <class S>
void uniform(const NumberArgs<S>& args, void* stream) {
  launch_numbers<S>("uniform", args.count, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((uniform_kernel<S>), grid, kNumberThreads, 0, stream, args, first);
  });
}

template <class S>
void normal(const NumberArgs<S>& args, void* stream) {
  launch_numbers<S>("normal", args.count, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((normal_kernel<S>), grid, kNumberThreads, 0, stream, args, first);
  });
}

}  // namespace svgdx::cuda
