// What both compilers, nvcc and the host's, need to read the shared per-element math.
#pragma once

#if defined(__CUDACC__) || defined(SVGDX_SIMT)
#define SVGDX_HD __host__ __device__ inline
#else
#define SVGDX_HD inline
#endif
