// Base of every family's CPU backend: the CPU has no device to guard and no stream.
#pragma once

#include "common/tensors.h"

namespace svgdx {

struct CpuDevice {
  struct Guard {
    explicit Guard(const Tensor&) {}
  };
  static void* stream(const Tensor&) { return nullptr; }
};

}  // namespace svgdx
