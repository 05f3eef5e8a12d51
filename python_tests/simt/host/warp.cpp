// Warp operations: the lanes named in a mask meet, exchange values and continue.
#include "host/runtime.h"
#include "host/shadow.h"

namespace simt {
namespace {

void complete(Warp& w, Meeting& m) {
  m.open = false;
  m.unread = __builtin_popcount(m.arrived);
  if (m.op == WarpOp::kSync) shadow_sync_lanes(w, m.arrived);
  Block* block = current->block;
  for (uint32_t rest = m.arrived; rest; rest &= rest - 1) {
    Fiber& f = block->fibers[size_t(w.index) * 32 + size_t(__builtin_ctz(rest))];
    if (f.meeting == &m && &f != current) wake_fiber(f);
  }
}

bool all_here(const Warp& w, const Meeting& m) { return (m.mask & w.live & ~m.arrived) == 0; }

void report_absent(const Meeting& m, uint32_t absent) {
  std::string lanes;
  for (int i = 0; i < 32; ++i) {
    if (absent >> i & 1) lanes += (lanes.empty() ? "" : ", ") + std::to_string(i);
  }
  report("shuffle-absent-lane", "the mask names lanes that do not exist or have returned: " + lanes, m.loc);
}

Meeting& find(Warp& w, WarpOp op, uint32_t mask, Loc loc) {
  Meeting* unused = nullptr;
  for (Meeting& m : w.meetings) {
    if (m.open && m.op == op && m.mask == mask && !(m.arrived >> current->lane & 1)) return m;
    if (!m.open && m.unread == 0) unused = &m;
  }
  if (!unused) unused = &w.meetings.emplace_back();
  Meeting& m = *unused;
  m.open = true;
  m.op = op;
  m.mask = mask;
  m.arrived = 0;
  m.loc = loc;
  const uint32_t absent = mask & ~w.live;
  if (absent && op != WarpOp::kSync) report_absent(m, absent);
  return m;
}

// Returns when every named lane has arrived. The caller reads the values and then calls taken().
Meeting& meet(WarpOp op, uint32_t mask, uint64_t bits, Loc loc) {
  Fiber& f = *current;
  const uint32_t bit = 1u << f.lane;
  if (!(mask & bit)) {
    report("mask-mismatch", "lane " + std::to_string(f.lane) + " is not named in its own mask", loc);
    mask |= bit;
  }
  Meeting& m = find(*f.warp, op, mask, loc);
  m.value[f.lane] = bits;
  m.arrived |= bit;
  f.meeting = &m;
  if (all_here(*f.warp, m)) {
    complete(*f.warp, m);
  } else {
    sleep_fiber(State::kMeeting, loc);
  }
  f.meeting = nullptr;
  return m;
}

void taken(Meeting& m) { --m.unread; }

}  // namespace

void lane_left(Warp& w) {
  for (size_t i = 0; i < w.meetings.size(); ++i) {
    Meeting& m = w.meetings[i];
    const uint32_t bit = 1u << current->lane;
    if (!m.open || !(m.mask & bit)) continue;
    if (m.op != WarpOp::kSync) report_absent(m, bit);
    if (all_here(w, m)) complete(w, m);
  }
}

void sync_warp(unsigned mask, Loc loc) { taken(meet(WarpOp::kSync, mask, 0, loc)); }

uint64_t shuffle(unsigned mask, uint64_t bits, int source_lane, Loc loc) {
  Meeting& m = meet(WarpOp::kShuffle, mask, bits, loc);
  uint64_t result = bits;
  if (m.arrived >> source_lane & 1) {
    result = m.value[source_lane];
  } else {
    report("shuffle-absent-lane", "reads lane " + std::to_string(source_lane) + ", which does not participate", loc);
  }
  taken(m);
  return result;
}

unsigned vote(unsigned mask, bool predicate, Loc loc) {
  Meeting& m = meet(WarpOp::kVote, mask, predicate, loc);
  unsigned ballot = 0;
  for (uint32_t rest = m.arrived; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    ballot |= unsigned(m.value[lane] != 0) << lane;
  }
  taken(m);
  return ballot;
}

void gather(unsigned mask, uint64_t bits, uint64_t (&all)[32], Loc loc) {
  Meeting& m = meet(WarpOp::kGather, mask, bits, loc);
  for (int i = 0; i < 32; ++i) all[i] = m.arrived >> i & 1 ? m.value[i] : bits;
  taken(m);
}

int lane() { return current->lane; }
void fence(bool device_wide) {
  if (device_wide) shadow_fence(*current);
  yield();
}

}  // namespace simt
