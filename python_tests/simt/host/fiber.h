// Fibers: one stack per CUDA thread, switched manually.
#pragma once

#include <cstddef>

namespace simt {

// The state of a suspended fiber.
struct Context {
  void* sp = nullptr;
  void* stack = nullptr;  // lowest address; null for the host's own stack
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

// Gives the context a stack, with an unmapped page below it.
void map_stack(Context& context);

// The next switch to `context` enters `entry`, which must never return.
void prepare(Context& context, void (*entry)());

// Suspends the running code as `from` and resumes `to`. With `forget`, `from` will never be resumed.
void switch_context(Context& from, Context& to, bool forget);

// An entry function must call this first.
void entered();

}  // namespace simt
