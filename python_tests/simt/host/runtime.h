// The harness's own state: fibers, warps, blocks, the scheduler. Kernels do not see it.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "host/fiber.h"
#include "host/simt.h"

namespace simt {

struct Block;
struct Warp;

// Lanes of a warp that meet in one warp operation.
struct Meeting {
  bool open = false;  // still waiting for lanes
  WarpOp op;
  uint32_t mask = 0;  // lanes named
  uint32_t arrived = 0;
  int unread = 0;  // lanes that have not yet read their result
  Loc loc{};
  uint64_t value[32];
};

enum class State { kReady, kBarrier, kMeeting, kDone };

struct Fiber {
  Context context;
  State state = State::kDone;
  uint3 thread_idx{};
  uint32_t thread = 0;  // linear index in the block
  int lane = 0;
  Warp* warp = nullptr;
  Block* block = nullptr;
  Meeting* meeting = nullptr;
  Loc waiting{};
  // Memory order (checked build), see shadow.h.
  uint32_t clock = 1;
  uint64_t fence_time = 0;  // of the last __threadfence
  uint32_t fence_epoch = 0;
  std::vector<uint64_t> occurrences;  // per access site, see counters.cpp
};

struct Warp {
  uint32_t live = 0;
  int index = 0;
  std::deque<Meeting> meetings;  // a deque: pointers stay valid
  uint32_t seen[32][32];         // seen[a][b]: the latest clock of lane b that lane a is ordered after
};

// A range of device memory that a kernel may access.
struct Region {
  uintptr_t base = 0;
  size_t bytes = 0;
  std::string name;
  int shared_slot = -1;      // -1: global memory
  size_t device_offset = 0;  // shared memory: the offset that it would have on the device
};

struct SharedKey {
  const void* key;
  size_t offset;
  bool operator<(const SharedKey& o) const { return key != o.key ? key < o.key : offset < o.offset; }
};

struct Block {
  uint3 index{};
  uint64_t linear = 0;
  int slot = 0;
  uint32_t threads = 0, alive = 0, arrived = 0;
  uint32_t epoch = 0;  // barriers passed
  Loc barrier_loc{};
  Barrier barrier_kind = Barrier::kPlain;
  int sum = 0, all = 1, any = 0;  // of the current barrier
  int count_result = 0, and_result = 0, or_result = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  uintptr_t shared_next = 0;  // first free byte of the slot
  size_t static_bytes = 0;    // of static shared memory so far
  std::map<SharedKey, void*> shared;
};

struct Report {
  std::string kind, text, kernel, file;
  int line = 0;
  uintptr_t pc = 0, other_pc = 0;  // 0 if `file` and `line` are known
  std::string block, thread;
  int64_t count = 1;
};

struct Options {
  uint64_t seed = 0;
  double preempt = 0;
  int resident = 2;
  bool counters = false;
  int64_t max_switches = 200000000;
};

struct Runtime {
  Options options;
  uint64_t random = 1;
  uint32_t preempt_below = 0;
  std::vector<Report> reports;
  std::map<std::string, size_t> report_index;
  bool aborted = false;  // a launch of this call was aborted

  // the running launch
  const char* kernel = "";
  dim3 grid, block;
  size_t dynamic_bytes = 0;
  void (*invoke)(void*) = nullptr;
  void* closure = nullptr;  // kernel and arguments
  size_t closure_bytes = 0;
  uint32_t launch = 0;
  int64_t switches = 0;
  Context host;
  std::vector<Block> blocks;  // resident
  std::vector<Fiber*> ready;
  std::vector<uint64_t> order;  // blocks not yet started, the next one last
  int unfinished = 0;           // number of resident blocks with live threads
};

extern Runtime runtime;
extern Fiber* current;  // null while host code runs

uint32_t draw(uint32_t n);  // uniform in [0, n)

// Suspends the running fiber, which stays ready.
void yield();
// Suspends it until wake_fiber.
void sleep_fiber(State state, Loc loc);
void wake_fiber(Fiber& fiber);
// Called when a lane of the warp ends: operations that wait for it complete or are reported.
void lane_left(Warp& warp);
// Aborts the launch; called in a fiber, never returns. The reports say why.
[[noreturn]] void abandon();

Report& report(const std::string& kind, const std::string& text, Loc loc, uintptr_t pc = 0, uintptr_t other_pc = 0);

// Begin and end of a Python call.
void begin_call(const Options& options);
void end_call();

}  // namespace simt
