#include "common/isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace svgdx {
namespace {

Isa machine_isa() {
#if defined(__x86_64__)
  // These are the sets that the kernels are compiled for; __builtin_cpu_supports also checks operating-system support.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
  for (const bool has : {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512dq") != 0,
                         __builtin_cpu_supports("avx512vl") != 0, __builtin_cpu_supports("avx512bw") != 0}) {
    if (!has) return Isa::avx2;
  }
  return Isa::avx512;
#else
  return Isa::baseline;
#endif
}

Isa choose_isa() {
  const Isa machine = machine_isa();
  const char* wanted = std::getenv("SVGDX_ISA");
  if (wanted == nullptr || *wanted == '\0') return machine;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (std::strcmp(wanted, isa_name(isa)) == 0) return isa < machine ? isa : machine;
  }
  throw std::runtime_error(std::string("SVGDX_ISA must be baseline, avx2 or avx512, but is '") + wanted + "'");
}

}  // namespace

const char* isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline"; }

Isa active_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

}  // namespace svgdx
