// Shadow memory of the checked build (SVGDX_SIMT_CHECKED); in the other builds these functions do nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "host/runtime.h"

namespace simt {

void shadow_open(uint32_t region, bool initialised);
void shadow_close(uintptr_t base, size_t bytes);
void shadow_reset();
bool shadow_written(uintptr_t base, size_t bytes);
void shadow_start_launch();
void shadow_start_block(Block& block);
void shadow_sync_lanes(Warp& warp, uint32_t lanes);
void shadow_fence(Fiber& fiber);
void shadow_barrier(Block& block);
void shadow_finish_warp(Warp& warp);

// The cost of one access in the source, over all launches of a call.
struct LineCount {
  uintptr_t pc = 0;
  std::string kernel;
  bool shared = false, write = false;
  int bytes_per_lane = 0;
  int64_t accesses = 0;                          // by single lanes
  int64_t requests = 0;                          // by warps
  int64_t sectors = 0;                           // global: 32-byte sectors moved
  int64_t bytes = 0;                             // global: distinct bytes requested
  int64_t wavefronts = 0, least_wavefronts = 0;  // shared
};
std::vector<LineCount> shadow_counters();

}  // namespace simt
