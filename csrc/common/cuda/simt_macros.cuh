// The few constructs that a kernel must write as a macro so that both nvcc and the host compiler (the SIMT harness,
// SVGDX_SIMT) accept them. Everything else in a kernel is plain CUDA; python_tests/simt/host/simt.h lists what the
// harness supports.
//
//   SVGDX_SHARED(float, tile, 32, 33);               __shared__ float tile[32][33];
//   SVGDX_SHARED_PACKS(float, tile, 512);            the same, aligned for reads and writes of 16-byte packs
//   SVGDX_DYNAMIC_SHARED(float, name);               all dynamic shared memory of the launch, as float*
//   svgdx::SharedCarver carver;                      ... or sub-arrays of it, each 16-byte aligned:
//   SVGDX_CARVE(carver, float, name, count);           float* name of `count` elements
//   svgdx::carve_bytes<float>(count)                 bytes that SVGDX_CARVE uses, for sizing the launch on the host
//   SVGDX_LAUNCH((kernel<T, 4>), grid, block, shared_bytes, stream, args...);   parenthesise names that contain commas
//   SVGDX_LAUNCH_CHECK("svgd_phi");                  throws std::runtime_error if the launch failed
//   SVGDX_UNROLL, SVGDX_UNROLL_BY(n)                 before a loop
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/backend.h"

#ifdef SVGDX_SIMT
#include "host/simt.h"
#define SVGDX_UNROLL
#define SVGDX_UNROLL_BY(n)
#else
#include <cuda_runtime.h>
#define SVGDX_UNROLL _Pragma("unroll")
#define SVGDX_PRAGMA(text) _Pragma(#text)
#define SVGDX_UNROLL_BY(n) SVGDX_PRAGMA(unroll n)
#endif

namespace svgdx {

constexpr size_t kCarveAlign = 16;

template <class T>
__host__ __device__ constexpr size_t carve_bytes(size_t count) {
  return (count * sizeof(T) + kCarveAlign - 1) / kCarveAlign * kCarveAlign;
}

namespace detail {
template <class T, size_t... N>
struct ArrayOf;
template <class T>
struct ArrayOf<T> {
  using type = T;
};
template <class T, size_t N, size_t... Rest>
struct ArrayOf<T, N, Rest...> {
  using type = typename ArrayOf<T, Rest...>::type[N];
};

// A kernel must opt in to more than 48 KiB of dynamic shared memory.
template <class Kernel>
inline void opt_in_shared(Kernel kernel, size_t bytes, const char* name) {
  if (bytes <= 48 * 1024) return;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(SVGDX_TEXT(SVGDX_NAMESPACE) ": the CUDA kernel ") + name + " needs " +
                             std::to_string(bytes) + " bytes of shared memory: " + cudaGetErrorString(error));
  }
}

inline void launch_check(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(SVGDX_TEXT(SVGDX_NAMESPACE) "::") + op +
                             ": the CUDA launch failed: " + cudaGetErrorString(error));
  }
}
}  // namespace detail

#ifdef SVGDX_SIMT

struct SharedCarver {
  size_t offset = 0;
};

#define SVGDX_SHARED_ALIGNED(alignment, T, name, ...)                           \
  using name##_array = typename ::svgdx::detail::ArrayOf<T, __VA_ARGS__>::type; \
  static const char name##_key = 0;                                             \
  name##_array& name = *static_cast<name##_array*>(                             \
      ::simt::static_shared(&name##_key, sizeof(name##_array), alignment, #name, __FILE__, __LINE__))
#define SVGDX_SHARED(T, name, ...) SVGDX_SHARED_ALIGNED(alignof(T), T, name, __VA_ARGS__)
#define SVGDX_SHARED_PACKS(T, name, ...) SVGDX_SHARED_ALIGNED(16, T, name, __VA_ARGS__)
#define SVGDX_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::simt::dynamic_shared(#name, __FILE__, __LINE__))
#define SVGDX_CARVE(carver, T, name, count)                                                                         \
  T* name =                                                                                                         \
      static_cast<T*>(::simt::carve_shared((carver).offset, size_t(count) * sizeof(T), #name, __FILE__, __LINE__)); \
  (carver).offset += ::svgdx::carve_bytes<T>(count)
#define SVGDX_START(kernel, grid, block, shared, stream, ...) \
  ::simt::launch(#kernel, dim3(grid), dim3(block), (shared), (stream), (kernel), __VA_ARGS__)

#else

struct SharedCarver {
  unsigned char* next;
  __device__ SharedCarver() {
    extern __shared__ __align__(16) unsigned char svgdx_dynamic_shared[];
    next = svgdx_dynamic_shared;
  }
};

#define SVGDX_SHARED(T, name, ...) __shared__ typename ::svgdx::detail::ArrayOf<T, __VA_ARGS__>::type name
#define SVGDX_SHARED_PACKS(T, name, ...) \
  __shared__ __align__(16) typename ::svgdx::detail::ArrayOf<T, __VA_ARGS__>::type name
#define SVGDX_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char svgdx_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(svgdx_dynamic_shared)
#define SVGDX_CARVE(carver, T, name, count)      \
  T* name = reinterpret_cast<T*>((carver).next); \
  (carver).next += ::svgdx::carve_bytes<T>(count)
#define SVGDX_START(kernel, grid, block, shared, stream, ...) \
  (kernel)<<<(grid), (block), (shared), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

#endif

#define SVGDX_LAUNCH(kernel, grid, block, shared, stream, ...)     \
  do {                                                             \
    ::svgdx::detail::opt_in_shared((kernel), (shared), #kernel);   \
    SVGDX_START(kernel, grid, block, shared, stream, __VA_ARGS__); \
  } while (false)
#define SVGDX_LAUNCH_CHECK(op) ::svgdx::detail::launch_check(op)

}  // namespace svgdx
