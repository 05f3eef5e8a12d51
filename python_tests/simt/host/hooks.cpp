// The functions that -fsanitize=thread calls before every memory access of a watched unit. They replace
// ThreadSanitizer's own runtime, which is not linked.
#include <link.h>

#include "host/device.h"
#include "host/memory.h"
#include "host/order.h"
#include "host/shadow.h"

namespace simt {
namespace {

struct Range {
  uintptr_t from, to;
};

// The library's own image, which holds constant tables.
Range own_image() {
  Range range{0, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto* out = static_cast<Range*>(data);
        const auto here = reinterpret_cast<uintptr_t>(&own_image);
        Range r{~uintptr_t(0), 0};
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
          const uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
          r.from = std::min(r.from, start);
          r.to = std::max(r.to, start + info->dlpi_phdr[i].p_memsz);
        }
        if (here < r.from || here >= r.to) return 0;
        *out = r;
        return 1;
      },
      &range);
  return range;
}

bool harmless(uintptr_t address, Access access) {
  const Context& c = current->context;
  if (address - reinterpret_cast<uintptr_t>(c.stack) < c.stack_bytes) return true;
  if (access != Access::kRead) return false;
  if (address - reinterpret_cast<uintptr_t>(runtime.closure) < runtime.closure_bytes) return true;
  static const Range image = own_image();
  return address >= image.from && address < image.to;
}

void access(const volatile void* p, size_t bytes, Access kind, bool atomic, bool aligned, const void* pc) {
  if (!current || bytes == 0) return;
  const auto address = reinterpret_cast<uintptr_t>(p);
  if (address - arena.base >= kArenaBytes) {
    if (harmless(address, kind)) return;
    if (!device.in_op) {
      report("illegal-address", "neither device memory nor the thread's own", {nullptr, 0},
             reinterpret_cast<uintptr_t>(pc));
      abandon();
    }
  }
  if (runtime.preempt_below && draw(0xffffffffu) < runtime.preempt_below) yield();
  if (aligned && address % bytes != 0) {
    report("misaligned", std::to_string(bytes) + "-byte access to an address that is no multiple of it", {nullptr, 0},
           reinterpret_cast<uintptr_t>(pc));
    abandon();
  }
  shadow_access(address, bytes, kind, atomic, reinterpret_cast<uintptr_t>(pc));
}

}  // namespace

void atomic_access(const volatile void* address, int bytes, const void* pc) {
  access(address, static_cast<size_t>(bytes), Access::kUpdate, true, true, pc);
}

}  // namespace simt

#define HOOKS(n)                                                                                                      \
  void __tsan_read##n(void* p) { simt::access(p, n, simt::Access::kRead, false, true, __builtin_return_address(0)); } \
  void __tsan_write##n(void* p) {                                                                                     \
    simt::access(p, n, simt::Access::kWrite, false, true, __builtin_return_address(0));                               \
  }                                                                                                                   \
  void __tsan_unaligned_read##n(void* p) {                                                                            \
    simt::access(p, n, simt::Access::kRead, false, false, __builtin_return_address(0));                               \
  }                                                                                                                   \
  void __tsan_unaligned_write##n(void* p) {                                                                           \
    simt::access(p, n, simt::Access::kWrite, false, false, __builtin_return_address(0));                              \
  }                                                                                                                   \
  void __tsan_volatile_read##n(void* p) {                                                                             \
    simt::access(p, n, simt::Access::kRead, true, true, __builtin_return_address(0));                                 \
  }                                                                                                                   \
  void __tsan_volatile_write##n(void* p) {                                                                            \
    simt::access(p, n, simt::Access::kWrite, true, true, __builtin_return_address(0));                                \
  }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t n) {
  simt::access(p, n, simt::Access::kRead, false, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t n) {
  simt::access(p, n, simt::Access::kWrite, false, false, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
}
