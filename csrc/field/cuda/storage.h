// Which arrays the forward kernels read and write in 16-bit formats.
#pragma once

#include "common/format.h"
#include "field/args.h"

namespace svgdx::cuda {

// Most dimensions for which there is such a kernel.
constexpr int64_t kStoredDims = 128;

// field_forward for at most kStoredDims dimensions, with query, x, score and phi in that format: in a 16-bit one, their
// pointers point to such numbers. Without stein.
void field_forward_stored(const FieldArgs<float>& args, Format format, void* scratch, void* stream);

}  // namespace svgdx::cuda
