// The functions of the CUDA runtime that the host layer calls, for the host compiler; included by simt.h.
#pragma once

#include <cstddef>

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

namespace simt {
cudaError_t set_shared_limit(const void* kernel, int bytes);
}

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute, int bytes) {
  return simt::set_shared_limit(reinterpret_cast<const void*>(kernel), bytes);
}
