// What `svgdx doctor` queries at run time. Plain C, so that Python's ctypes can call it without torch.
#include <exception>

#include "common/isa.h"

// The SIMD level in use, or null if SVGDX_ISA does not name one.
extern "C" __attribute__((visibility("default"))) const char* svgdx_simd_level() noexcept {
  try {
    return svgdx::isa_name(svgdx::active_isa());
  } catch (const std::exception&) {
    return nullptr;
  }
}
