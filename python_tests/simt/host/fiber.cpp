#include "host/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
asm(R"(
.text
.globl svgdx_simt_switch
.hidden svgdx_simt_switch
.type svgdx_simt_switch, @function
svgdx_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size svgdx_simt_switch, .-svgdx_simt_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl svgdx_simt_switch
.hidden svgdx_simt_switch
.type svgdx_simt_switch, %function
svgdx_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size svgdx_simt_switch, .-svgdx_simt_switch
)");
#else
#error "the SIMT harness supports x86-64 and aarch64 only"
#endif

extern "C" void svgdx_simt_switch(void** save_sp, void* load_sp);

namespace simt {
namespace {
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 * 1024;
Context* left = nullptr;  // the context the last switch came from
void* entered_fake = nullptr;
#else
constexpr size_t kStackBytes = 128 * 1024;
#endif
}  // namespace

void map_stack(Context& context) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* p =
      mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(p, page, PROT_NONE);
  // The tops of eight stacks are in different sets of a cache, because a shuffle switches between 32 of them.
  static size_t mapped = 0;
  context.stack = static_cast<char*>(p) + page;
  context.stack_bytes = kStackBytes - mapped++ % 8 * (page / 8);
}

void prepare(Context& context, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(context.stack, context.stack_bytes);
#endif
  auto top = reinterpret_cast<uintptr_t>(context.stack) + context.stack_bytes;
  top &= ~uintptr_t(63);
#if defined(__x86_64__)
  auto* frame = reinterpret_cast<void**>(top) - 8;  // six registers, the entry, a null return address
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(entry);
#else
  auto* frame = reinterpret_cast<void**>(top) - 20;
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[11] = reinterpret_cast<void*>(entry);  // x30
#endif
  context.sp = frame;
  context.fake_stack = nullptr;
}

void switch_context(Context& from, Context& to, bool forget) {
#if defined(__SANITIZE_ADDRESS__)
  left = &from;
  __sanitizer_start_switch_fiber(forget ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
  svgdx_simt_switch(&from.sp, to.sp);
  entered_fake = from.fake_stack;
  entered();
#else
  (void)forget;
  svgdx_simt_switch(&from.sp, to.sp);
#endif
}

void entered() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(entered_fake, &bottom, &size);
  entered_fake = nullptr;
  if (left->stack == nullptr) {  // the bounds of the host's own stack become known when it is first left
    left->stack = const_cast<void*>(bottom);
    left->stack_bytes = size;
  }
#endif
}

}  // namespace simt
