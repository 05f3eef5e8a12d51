// Counters per access in the source: lanes of a warp that make the same access (same code address, same occurrence
// since the last barrier) form one request.
#pragma once

#include <cstddef>
#include <cstdint>

#include "host/runtime.h"

namespace simt {

void count_access(const Region& region, uintptr_t address, size_t bytes, bool write, uintptr_t pc);
void flush_counters(Block& block, Warp& warp);
void reset_counters();

}  // namespace simt
