// Chooses the CPU kernels' instruction set at run time. Every *_kernel.cpp is compiled once per set, into that set's
// namespace.
#pragma once

namespace svgdx {

enum class Isa { baseline, avx2, avx512 };

// The widest set that this machine supports, or a lower one named by the environment variable SVGDX_ISA (baseline,
// avx2, avx512).
Isa active_isa();
const char* isa_name(Isa isa);

}  // namespace svgdx

// SVGDX_ISA_DECLARE, in a kernel's header, declares functions in the namespace of every set.
// SVGDX_ISA_CALL, in a dispatcher, calls one of them, e.g. SVGDX_ISA_CALL(jacobian_forward_items, args, begin, end).
#if defined(__x86_64__)
#define SVGDX_ISA_DECLARE(...) \
  namespace svgdx::baseline {  \
  __VA_ARGS__                  \
  }                            \
  namespace svgdx::avx2 {      \
  __VA_ARGS__                  \
  }                            \
  namespace svgdx::avx512 {    \
  __VA_ARGS__                  \
  }
#define SVGDX_ISA_CALL(function, ...)                                                     \
  (::svgdx::active_isa() == ::svgdx::Isa::avx512 ? ::svgdx::avx512::function(__VA_ARGS__) \
   : ::svgdx::active_isa() == ::svgdx::Isa::avx2 ? ::svgdx::avx2::function(__VA_ARGS__)   \
                                                 : ::svgdx::baseline::function(__VA_ARGS__))
#else
#define SVGDX_ISA_DECLARE(...) \
  namespace svgdx::baseline {  \
  __VA_ARGS__                  \
  }
#define SVGDX_ISA_CALL(function, ...) ::svgdx::baseline::function(__VA_ARGS__)
#endif
