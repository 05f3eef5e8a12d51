// Determines which accesses of one block are ordered before those of another, through fences and atomics.
#pragma once

#include <cstddef>
#include <cstdint>

#include "host/runtime.h"

namespace simt {

enum class Access { kRead, kWrite, kUpdate };

// When an access happened. Packed, so that the last write and the last reads of a word share a cache line.
struct __attribute__((packed, aligned(2))) Stamp {
  uint32_t time;  // accesses of the call before it
  uint32_t launch;
  uint32_t block;
  uint32_t epoch;  // barriers that the block had passed
  uint32_t clock;  // of the lane
  uint16_t thread;
};

void shadow_access(uintptr_t address, size_t bytes, Access access, bool atomic, uintptr_t pc);

void reset_order();
void start_order();
void order_start_block(const Block& block);
// An atomic or volatile access to global memory by the running thread.
void order_atomic(uintptr_t address, Access access);
// Records that this launch contains a __threadfence.
void order_note_fence();
bool released_before(const Stamp& earlier, const Fiber& later);

}  // namespace simt
