// Whether torch permits products of float32 matrices in TF32: torch.backends.cuda.matmul.fp32_precision and allow_tf32,
// torch.set_float32_matmul_precision. The stable ABI does not have these settings, so torch's own functions are called:
// weak symbols, which are null in a torch that does not export them.
#pragma once

#include "common/backend.h"

extern "C" {
// at::globalContext(); at::Context::float32Precision(at::Float32Backend, at::Float32Op) const, which torch's products
// ask; and for a torch without that, at::Context::allowTF32CuBLAS() const.
const void* svgdx_torch_context() __asm__("_ZN2at13globalContextEv") __attribute__((weak));
int svgdx_torch_precision(const void*, int backend,
                          int op) __asm__("_ZNK2at7Context16float32PrecisionENS_14Float32BackendENS_9Float32OpE")
    __attribute__((weak));
bool svgdx_torch_allows_tf32(const void*) __asm__("_ZNK2at7Context15allowTF32CuBLASEv") __attribute__((weak));

// 1 if TF32 is permitted, 0 if it is not, -1 if the setting cannot be read. `svgdx doctor` calls it as well.
inline __attribute__((used, visibility("default"))) int svgdx_tf32() {
  constexpr int kCuda = 1, kMatmul = 3, kTf32 = 2;  // at::Float32Backend, at::Float32Op, at::Float32Precision
  if (svgdx_torch_context == nullptr) return -1;
  if (svgdx_torch_precision != nullptr) return svgdx_torch_precision(svgdx_torch_context(), kCuda, kMatmul) == kTf32;
  if (svgdx_torch_allows_tf32 == nullptr) return -1;
  try {
    return svgdx_torch_allows_tf32(svgdx_torch_context());
  } catch (...) {  // it refuses settings that were made in both of torch's ways
    return -1;
  }
}
}

namespace svgdx::cuda {

inline bool permits_tf32() { return svgdx_tf32() == 1; }

}  // namespace svgdx::cuda
