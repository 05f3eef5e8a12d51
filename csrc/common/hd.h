// Lets both nvcc and the host compiler compile the shared per-element math.
#pragma once

#if defined(__CUDACC__)
#define SVGDX_HD __host__ __device__ inline
#elif defined(SVGDX_SIMT)
#define SVGDX_HD inline
#else
// Always inlined: these are compiled once per instruction set, and the linker must not pick one of the copies.
#define SVGDX_HD inline __attribute__((always_inline))
#endif
