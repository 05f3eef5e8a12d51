#include "host/order.h"

#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

namespace simt {
namespace {

// What a thread publishes to later readers of a location: its own accesses up to its last fence, those of the whole
// block before the barrier that the fence followed, and those that other threads fenced before the last barrier.
struct Release {
  uint64_t block;
  uint32_t thread;
  uint64_t fence_time;
  uint32_t fence_epoch;
  std::vector<uint64_t> fences;  // per thread
};
using Shared = std::shared_ptr<const Release>;

// A release that a thread has seen; the rest of its block sees it after the next barrier.
struct Acquired {
  Shared release;
  uint32_t thread;
  uint32_t epoch;
};

std::unordered_map<uintptr_t, std::set<Shared>> released_at;   // by location
std::unordered_map<uint64_t, std::vector<Acquired>> acquired;  // by block
bool any_fence = false;

bool visible(const Acquired& a, const Fiber& f) { return a.thread == f.thread || f.block->epoch > a.epoch; }

Shared make_release(const Fiber& f) {
  auto r = std::make_shared<Release>();
  r->block = f.block->linear;
  r->thread = f.thread;
  r->fence_time = f.fence_time;
  r->fence_epoch = f.fence_time ? f.fence_epoch : 0;
  bool useful = f.fence_time != 0;
  for (uint32_t t = 0; t < f.block->threads; ++t) {
    const Fiber& other = f.block->fibers[t];
    r->fences.push_back(other.fence_epoch < f.block->epoch ? other.fence_time : 0);
    useful |= r->fences.back() != 0;
  }
  return useful ? r : nullptr;
}

}  // namespace

void reset_order() {
  released_at.clear();
  acquired.clear();
}

void start_order() {
  reset_order();
  any_fence = false;
}

void order_start_block(const Block& block) { acquired.erase(block.linear); }

void order_note_fence() { any_fence = true; }

void order_atomic(uintptr_t address, Access access) {
  if (!any_fence) return;
  const Fiber& f = *current;
  std::set<Shared>& here = released_at[address];
  std::vector<Acquired>& mine = acquired[f.block->linear];
  if (access != Access::kWrite) {
    for (const Shared& r : here) {
      if (r->block != f.block->linear) mine.push_back({r, f.thread, f.block->epoch});
    }
  }
  if (access == Access::kRead) return;
  if (Shared own = make_release(f)) {
    here.insert(own);
    for (const Acquired& a : mine) {
      if (visible(a, f)) here.insert(a.release);
    }
  }
}

bool released_before(const Stamp& earlier, const Fiber& later) {
  const auto found = acquired.find(later.block->linear);
  if (found == acquired.end()) return false;
  for (const Acquired& a : found->second) {
    const Release& r = *a.release;
    if (r.block != earlier.block || !visible(a, later)) continue;
    if (earlier.epoch < r.fence_epoch || earlier.time <= r.fences[earlier.thread]) return true;
    if (earlier.thread == r.thread && earlier.time <= r.fence_time) return true;
  }
  return false;
}

}  // namespace simt
