// The host SIMT harness: what a kernel sees if the host compiler (-DSVGDX_SIMT) compiles it instead of nvcc.
//
// How to write a kernel that both compilers accept
//   - Include common/cuda/simt_macros.cuh, which lists the macros for shared memory, carving, launches and unrolling.
//   - Everything else is plain CUDA: the vector types of cuda_types.h and the functions of cuda_intrinsics.h.
//   - Shared memory comes only from SVGDX_SHARED, SVGDX_DYNAMIC_SHARED or SVGDX_CARVE; to reuse an array, cast its
//     pointer. Inline PTX goes inside `#ifndef SVGDX_SIMT`, with a host version beside it.
//   - A `.cuh` includes no torch header; a launch function takes `void* stream`.
//
// How to run one: see python_tests/simt/harness.py, which builds the libraries on first use. Its Result has `.reports`
// (empty: nothing wrong) and, in the checked build, `.counters`.
//
// What runs: every CUDA thread is a fiber on one OS thread; `resident` blocks are interleaved; the next fiber is drawn
// at random from `seed`. Fibers are switched at barriers, warp operations and fences and, in the checked build, with
// probability `preempt` before any memory access.
// What is reported, in every build: barriers reached on different lines or missed by threads that returned
// (barrier-divergence), warp operations with absent lanes (shuffle-absent-lane) or with a mask that lacks the caller
// (mask-mismatch), deadlock, livelock, invalid-launch, shared-overflow. In the checked build also out-of-bounds,
// uninitialized-read, shared-race, global-race, unwritten-output, misaligned, illegal-address (shadow.h).
// What is not detected: memcpy and memset called by name; an index that falls inside another array; a race whose older
// access has since been overwritten in the shadow (which remembers one write and one group of reads of the same bytes
// per four bytes; other seeds expose it); reorderings that a weak memory model allows beyond those reported as races.
// The counters model neither caches nor registers, and treat lanes as one request if they make the same access with the
// same number of occurrences since the last barrier. Atomics are not counted.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "host/cuda_runtime.h"
#include "host/cuda_types.h"
#include "host/registry.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// Excludes the harness's own code from the checks. noinline keeps the call's line and prevents GCC from inlining it
// into checked code.
#define SIMT_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#define SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace simt {

struct Loc {
  const char* file;
  int line;
};

// const functions: the value never changes during a thread's life, so GCC may keep it in a register.
uint3 thread_index() __attribute__((const));
uint3 block_index() __attribute__((const));
dim3 block_dim() __attribute__((const));
dim3 grid_dim() __attribute__((const));

enum class Barrier { kPlain, kCount, kAnd, kOr };
int barrier(Barrier kind, int predicate, Loc loc);

enum class WarpOp { kSync, kShuffle, kVote, kGather };
void sync_warp(unsigned mask, Loc loc);
uint64_t shuffle(unsigned mask, uint64_t bits, int source_lane, Loc loc);
unsigned vote(unsigned mask, bool predicate, Loc loc);
void gather(unsigned mask, uint64_t bits, uint64_t (&all)[32], Loc loc);
int lane();
void fence(bool device_wide);

void* static_shared(const void* key, size_t bytes, size_t align, const char* name, const char* file, int line);
void* dynamic_shared(const char* name, const char* file, int line);
void* carve_shared(size_t offset, size_t bytes, const char* name, const char* file, int line);

// Counts memory as not yet written.
void forget(const void* address, size_t bytes);

// Called before an atomic operation.
void atomic_access(const volatile void* address, int bytes, const void* pc);

struct Launch {
  const char* name;
  const void* kernel;
  dim3 grid, block;
  size_t shared;
  const void* stream;
};
void launch(const Launch& launch, void (*invoke)(void*), void* closure, size_t closure_bytes);

template <class... P, class... A>
void launch(const char* name, dim3 grid, dim3 block, size_t shared, const void* stream, void (*kernel)(P...),
            A&&... args) {
  struct Closure {
    void (*kernel)(P...);
    std::tuple<P...> args;
    SIMT_UNWATCHED static void invoke(void* self) {
      auto* closure = static_cast<Closure*>(self);
      std::apply(closure->kernel, closure->args);
    }
  };
  Closure closure{kernel, std::tuple<P...>(std::forward<A>(args)...)};
  launch(Launch{name, reinterpret_cast<const void*>(kernel), grid, block, shared, stream}, &Closure::invoke, &closure,
         sizeof(closure));
}

template <class... P, size_t... I>
KernelCall wrap_kernel(const char* name, void (*kernel)(P...), std::index_sequence<I...>) {
  return [name, kernel](dim3 grid, dim3 block, size_t shared, const Values& args) {
    check_count(args, sizeof...(P));
    launch(name, grid, block, shared, nullptr, kernel, convert<P>(args[I])...);
  };
}
template <class... P>
int add_kernel(const char* name, void (*kernel)(P...)) {
  exported_kernels()[name] = wrap_kernel(name, kernel, std::index_sequence_for<P...>());
  return 0;
}

}  // namespace simt

#define SIMT_JOIN2(a, b) a##b
#define SIMT_JOIN(a, b) SIMT_JOIN2(a, b)
#define SVGDX_SIMT_KERNEL(name, ...) \
  [[maybe_unused]] static const int SIMT_JOIN(simt_kernel_, __COUNTER__) = ::simt::add_kernel(name, __VA_ARGS__)
#define SVGDX_SIMT_EXPORT(name, ...) \
  [[maybe_unused]] static const int SIMT_JOIN(simt_export_, __COUNTER__) = ::simt::add_call(name, __VA_ARGS__)

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_dim())
#define gridDim (::simt::grid_dim())
constexpr int warpSize = 32;

#include "host/cuda_intrinsics.h"
