// Memory that a call leaves to the next ones. malloc returns large blocks to the system, which maps and clears every
// page again at the next call: a third of the time of a call with a few megabytes of temporaries.
#pragma once

#include <cstdint>

namespace svgdx::cpu {

// A block aligned for the widest SIMD vector, with at least the bytes that were asked for.
struct Block {
  void* memory = nullptr;
  int64_t bytes = 0;
};

// Throws std::bad_alloc if there is no memory.
Block take_block(int64_t bytes);
// Keeps the block for a later call, or frees it. The pool holds at most 64 MiB.
void give_back(Block block);

}  // namespace svgdx::cpu
