// Device memory: one reserved address range, filled from below with global arrays, each between red zones; the upper
// end holds the resident blocks' shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "host/runtime.h"

namespace simt {

constexpr size_t kArenaBytes = size_t(1) << 30;
constexpr size_t kRedZone = 1024;             // around global arrays
constexpr size_t kSharedRedZone = 128;        // around shared arrays
constexpr size_t kSharedLimit = 227 * 1024;   // the most that a block may use on the newest devices
constexpr size_t kSharedDefault = 48 * 1024;  // what it may use without opting in
constexpr size_t kSlotBytes = 1024 * 1024;    // per resident block
constexpr int kSlots = 16;

struct Arena {
  uintptr_t base = 0;
  uintptr_t next = 0;           // first free byte for global arrays
  std::vector<Region> regions;  // index 0 means "no region"
};

extern Arena arena;

// Whether the call used so much that its pages go back to the system rather than to the next call.
inline bool arena_is_large() { return arena.next - arena.base > (size_t(1) << 20); }

inline uintptr_t slot_base(int slot) { return arena.base + kArenaBytes - size_t(slot + 1) * kSlotBytes; }

// A global array. `initialised`: its bytes may be read before a kernel writes them.
void* allocate(size_t bytes, const char* name, bool initialised);
void free_all();
void start_block_memory(Block& block);

}  // namespace simt
