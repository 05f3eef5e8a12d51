// What both compilers, nvcc and the host's, need to read the shared per-element math.
#pragma once

#if defined(__CUDACC__)
#define SVGDX_HD __host__ __device__ inline
#elif defined(SVGDX_SIMT)
#define SVGDX_HD inline
#else
// Always inlined: these are compiled once per instruction set, and the linker must not choose between the copies.
#define SVGDX_HD inline __attribute__((always_inline))
#endif
