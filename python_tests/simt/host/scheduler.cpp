// Launches, blocks and the choice of the fiber that runs next.
#include <numeric>

#include "host/device.h"
#include "host/memory.h"
#include "host/runtime.h"
#include "host/shadow.h"

namespace simt {

Runtime runtime;
Fiber* current = nullptr;

uint32_t draw(uint32_t n) {
  uint64_t& s = runtime.random;  // xorshift64*
  s ^= s >> 12;
  s ^= s << 25;
  s ^= s >> 27;
  return static_cast<uint32_t>(((s * 0x2545F4914F6CDD1Dull >> 32) * n) >> 32);
}

namespace {

void switch_to(Fiber* next, bool forget) {
  Context& from = current ? current->context : runtime.host;
  Context& to = next ? next->context : runtime.host;
  current = next;
  switch_context(from, to, forget);
}

Fiber* take_ready() {
  if (runtime.ready.empty()) return nullptr;
  const uint32_t i = draw(static_cast<uint32_t>(runtime.ready.size()));
  Fiber* f = runtime.ready[i];
  runtime.ready[i] = runtime.ready.back();
  runtime.ready.pop_back();
  return f;
}

// Resumes another fiber, or the host if none is ready.
void leave(bool forget) {
  if (++runtime.switches > runtime.options.max_switches) {
    if (!runtime.aborted) report("livelock", "the launch does not end", {runtime.kernel, 0});
    runtime.aborted = true;
    switch_to(nullptr, forget);
    return;
  }
  Fiber* next = take_ready();
  if (next != current) switch_to(next, forget);
}

void wake(Fiber& f) {
  f.state = State::kReady;
  runtime.ready.push_back(&f);
}

void release_barrier(Block& b) {
  if (b.alive < b.threads) {
    report("barrier-divergence",
           std::to_string(b.threads - b.alive) + " of " + std::to_string(b.threads) +
               " threads returned without reaching this barrier",
           b.barrier_loc);
  }
  b.count_result = b.sum;
  b.and_result = b.all;
  b.or_result = b.any;
  b.arrived = 0;
  ++b.epoch;
  shadow_barrier(b);
  for (Fiber& f : b.fibers) {
    if (f.state == State::kBarrier && &f != current) wake(f);
  }
}

void finish_thread() {
  Fiber& f = *current;
  Block& b = *f.block;
  f.state = State::kDone;
  Warp& w = *f.warp;
  w.live &= ~(1u << f.lane);
  lane_left(w);
  if (w.live == 0) shadow_finish_warp(w);
  if (--b.alive == 0) {
    --runtime.unfinished;
    switch_to(nullptr, true);  // the host starts the next block
  }
  if (b.arrived == b.alive) release_barrier(b);
  leave(true);
}

void fiber_entry() {
  entered();
  runtime.invoke(runtime.closure);
  finish_thread();
  __builtin_unreachable();
}

void set_index(Block& b, uint64_t linear) {
  b.linear = linear;
  b.index.x = static_cast<unsigned>(linear % runtime.grid.x);
  b.index.y = static_cast<unsigned>(linear / runtime.grid.x % runtime.grid.y);
  b.index.z = static_cast<unsigned>(linear / runtime.grid.x / runtime.grid.y);
}

void start_fiber(Block& b, uint32_t thread) {
  Fiber& f = b.fibers[thread];
  const dim3& d = runtime.block;
  f.thread_idx = {thread % d.x, thread / d.x % d.y, thread / d.x / d.y};
  f.thread = thread;
  f.lane = static_cast<int>(thread % 32);
  f.block = &b;
  f.warp = &b.warps[thread / 32];
  f.warp->live |= 1u << f.lane;
  f.meeting = nullptr;
  f.clock = 1;
  f.fence_time = 0;
  f.fence_epoch = 0;
  if (!f.context.stack) map_stack(f.context);
  prepare(f.context, fiber_entry);
  wake(f);
}

void start_block(Block& b, uint64_t linear) {
  set_index(b, linear);
  const uint32_t threads = runtime.block.x * runtime.block.y * runtime.block.z;
  b.threads = b.alive = threads;
  b.arrived = 0;
  b.epoch = 0;
  if (b.fibers.size() < threads) b.fibers.resize(threads);
  b.warps.resize((threads + 31) / 32);
  for (size_t i = 0; i < b.warps.size(); ++i) {
    b.warps[i].live = 0;
    b.warps[i].index = static_cast<int>(i);
    b.warps[i].meetings.clear();
  }
  start_block_memory(b);
  shadow_start_block(b);
  ++runtime.unfinished;
  for (uint32_t t = 0; t < threads; ++t) start_fiber(b, t);
}

void report_deadlock() {
  for (Block& b : runtime.blocks) {
    if (b.alive == 0) continue;
    for (uint32_t t = 0; t < b.threads; ++t) {
      Fiber& f = b.fibers[t];
      if (f.state == State::kDone) continue;
      current = &f;  // so that the report names block and thread
      if (f.state == State::kMeeting) {
        report("shuffle-absent-lane", "lanes named in the mask never reach this warp operation", f.waiting);
      } else {
        report("deadlock", "threads wait at this barrier for threads that never reach it", f.waiting);
      }
    }
  }
  current = nullptr;
  runtime.aborted = true;
}

// Runs all blocks; a slot is free once all threads of its block have ended.
void run_blocks() {
  const size_t slots =
      std::min<size_t>({static_cast<size_t>(std::max(1, runtime.options.resident)), kSlots - 1, runtime.order.size()});
  if (runtime.blocks.size() < slots) runtime.blocks.resize(slots);
  for (size_t i = 0; i < runtime.blocks.size(); ++i) {
    runtime.blocks[i].slot = static_cast<int>(i);
    runtime.blocks[i].alive = 0;
  }
  while (!runtime.aborted) {
    for (size_t i = 0; i < slots && !runtime.order.empty(); ++i) {
      if (runtime.blocks[i].alive != 0) continue;
      start_block(runtime.blocks[i], runtime.order.back());
      runtime.order.pop_back();
    }
    if (runtime.unfinished == 0) return;
    Fiber* next = take_ready();
    if (next) {
      switch_to(next, false);
    } else {
      report_deadlock();
    }
  }
}

bool launchable(dim3 grid, dim3 block, size_t shared) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  std::string wrong;
  if (threads == 0 || threads > 1024) wrong = "a block of " + std::to_string(threads) + " threads";
  if (block.z > 64) wrong = "blockDim.z above 64";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) wrong = "an empty grid";
  if (grid.x > 2147483647u) wrong = "gridDim.x above 2^31 - 1";
  if (grid.y > 65535 || grid.z > 65535) wrong = "gridDim.y or gridDim.z above 65535";
  if (shared > kSharedLimit) wrong = std::to_string(shared) + " bytes of dynamic shared memory";
  if (!wrong.empty()) report("invalid-launch", wrong, {runtime.kernel, 0});
  return wrong.empty();
}

}  // namespace

void launch(const Launch& launch, void (*invoke)(void*), void* closure, size_t closure_bytes) {
  if (runtime.aborted) return;
  const dim3 grid = launch.grid, block = launch.block;
  runtime.kernel = launch.name;
  check_launch(launch.kernel, launch.shared, launch.stream);
  if (!launchable(grid, block, launch.shared)) {
    device.error = cudaErrorInvalidConfiguration;
    return;
  }
  runtime.grid = grid;
  runtime.block = block;
  runtime.dynamic_bytes = launch.shared;
  runtime.invoke = invoke;
  runtime.closure = closure;
  runtime.closure_bytes = closure_bytes;
  runtime.switches = 0;
  ++runtime.launch;
  runtime.ready.clear();
  runtime.unfinished = 0;
  runtime.order.resize(uint64_t(grid.x) * grid.y * grid.z);
  std::iota(runtime.order.begin(), runtime.order.end(), uint64_t(0));
  for (size_t i = runtime.order.size(); i > 1; --i) std::swap(runtime.order[i - 1], runtime.order[draw(uint32_t(i))]);
  shadow_start_launch();
  run_blocks();
  current = nullptr;
}

void sleep_fiber(State state, Loc loc) {
  current->state = state;
  current->waiting = loc;
  leave(false);
}

void wake_fiber(Fiber& f) { wake(f); }

void yield() {
  runtime.ready.push_back(current);
  leave(false);
}

void abandon() {
  runtime.aborted = true;
  switch_to(nullptr, true);
  __builtin_unreachable();
}

int barrier(Barrier kind, int predicate, Loc loc) {
  Block& b = *current->block;
  if (b.arrived == 0) {
    b.barrier_loc = loc;
    b.barrier_kind = kind;
    b.sum = b.any = 0;
    b.all = 1;
  } else if (loc.line != b.barrier_loc.line || std::string(loc.file) != b.barrier_loc.file) {
    report("barrier-divergence",
           "other threads of the block wait at the barrier of line " + std::to_string(b.barrier_loc.line), loc);
  }
  const int p = predicate != 0;
  b.sum += p;
  b.all &= p;
  b.any |= p;
  if (++b.arrived == b.alive) {
    release_barrier(b);
    yield();
  } else {
    sleep_fiber(State::kBarrier, loc);
  }
  if (kind == Barrier::kCount) return b.count_result;
  return kind == Barrier::kAnd ? b.and_result : b.or_result;
}

uint3 thread_index() { return current->thread_idx; }
uint3 block_index() { return current->block->index; }
dim3 block_dim() { return runtime.block; }
dim3 grid_dim() { return runtime.grid; }

}  // namespace simt
