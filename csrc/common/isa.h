// The instruction set of the CPU kernels, chosen at run time. Every *_kernel.cpp is compiled once per set, into the
// namespace of that set.
#pragma once

namespace svgdx {

enum class Isa { baseline, avx2, avx512 };

// The widest set this machine runs; the environment variable SVGDX_ISA (baseline, avx2, avx512) lowers it.
Isa active_isa();
const char* isa_name(Isa isa);

}  // namespace svgdx

// In a kernel's header: declares the functions in the namespace of every set.
// In a dispatcher: calls one of them, for example SVGDX_ISA_CALL(jacobian_forward, args, begin, end).
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
