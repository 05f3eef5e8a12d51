// Shadow memory: for every four bytes of device memory, the region that they belong to, which of them have been
// written, the last write and the last read. Two accesses of one launch race unless one is ordered before the other:
//   - same thread, or same block with a barrier between them;
//   - same warp, with a __syncwarp of both lanes between them (a shuffle does not order memory);
//   - different blocks: write, __threadfence, atomic (or volatile store) on a location; atomic (or volatile load) there
//     by the other block, then the access. Barriers extend this to the blocks' other threads.
// Atomics do not race with atomics.
#include "host/shadow.h"

#include <sys/mman.h>

#include <memory>
#include <new>
#include <unordered_map>

#include "host/counters.h"
#include "host/memory.h"
#include "host/order.h"
#include "host/tensors.h"

namespace simt {
namespace {

enum Flags : uint8_t { kAtomicFlag = 1, kManyWarps = 2, kManyBlocks = 4 };

// The last reads of several lanes of a warp share a record: `lanes` is their set, `clock` the latest of their clocks.
struct Record {
  Stamp stamp;
  uintptr_t pc;
  uint32_t lanes;
  uint8_t bytes;  // mask of the four
  uint8_t flags;
};

struct Cell {
  Record write, read;
  uint32_t region;
  uint8_t written;  // mask of the four bytes
};

constexpr uintptr_t kPageBytes = 4096;

Cell* cells = nullptr;                                         // of the arena
std::unordered_map<uintptr_t, std::unique_ptr<Cell[]>> pages;  // of the tensors, by page
struct {
  uintptr_t page;
  Cell* cells;
} recent[64];
uint64_t now = 0;

// Null if nothing in the page of the address is tracked.
Cell* find_cell(uintptr_t address) {
  if (address - arena.base < kArenaBytes) return cells + (address - arena.base) / 4;
  const uintptr_t page = address / kPageBytes;
  auto& last = recent[page % 64];
  if (last.page != page) {
    const auto entry = pages.find(page);
    if (entry == pages.end()) return nullptr;
    last = {page, entry->second.get()};
  }
  return last.cells + address % kPageBytes / 4;
}

Cell& cell_of(uintptr_t address) { return *find_cell(address); }

void open_page(uintptr_t address) {
  if (address - arena.base < kArenaBytes) return;
  std::unique_ptr<Cell[]>& page = pages[address / kPageBytes];
  if (!page) page.reset(new Cell[kPageBytes / 4]());
}

void reserve_cells() {
  if (cells) return;
  void* p = mmap(nullptr, kArenaBytes / 4 * sizeof(Cell), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  cells = static_cast<Cell*>(p);
}

uint8_t bytes_of(uintptr_t address, uintptr_t end, uintptr_t cell) {
  uint8_t bits = 0;
  for (uintptr_t i = 0; i < 4; ++i) bits |= uint8_t(cell + i >= address && cell + i < end) << i;
  return bits;
}

bool before(const Record& r, const Fiber& f) {
  if (r.stamp.launch != runtime.launch) return true;
  if (r.flags & kManyBlocks) return false;
  if (r.stamp.block != f.block->linear) return released_before(r.stamp, f);
  if (r.stamp.epoch < f.block->epoch) return true;
  if (r.flags & kManyWarps) return false;
  if (r.stamp.thread / 32 != f.thread / 32) return false;
  for (uint32_t rest = r.lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (lane != f.lane && f.warp->seen[f.lane][lane] < r.stamp.clock) return false;
  }
  return true;
}

Record record_of(const Fiber& f, uintptr_t pc, uint8_t bytes, bool atomic) {
  Record r;
  r.stamp = {now, runtime.launch, f.block->linear, f.block->epoch, f.clock, f.thread};
  r.pc = pc;
  r.lanes = 1u << f.lane;
  r.bytes = bytes;
  r.flags = atomic ? kAtomicFlag : 0;
  return r;
}

const char* verb(Access a) { return a == Access::kRead ? "reads" : a == Access::kWrite ? "writes" : "updates"; }

std::string place(const Region& region, uintptr_t address) {
  return region.name + " + " + std::to_string(address - region.base) + " bytes";
}

void report_race(const Record& old, bool old_writes, Access access, uintptr_t address, uintptr_t pc) {
  const Region& region = arena.regions[cell_of(address).region];
  const bool shared = region.shared_slot >= 0;
  const bool other_block = old.stamp.block != current->block->linear;
  Report& r = report(shared ? "shared-race" : "global-race", "", {nullptr, 0}, pc, old.pc);
  if (r.count > 1) return;
  r.text = std::string(verb(access)) + " " + place(region, address) + ", which thread " +
           std::to_string(old.stamp.thread) + " of " + (other_block ? "another block " : "the block ") +
           (old_writes ? "writes" : "reads") + " without any ordering between the two";
}

void merge_read(Record& old, const Record& read, const Fiber& f) {
  // A record holds bytes and lanes, but not which lane read which byte, so reads of other bytes are not merged.
  if (old.stamp.launch != runtime.launch || before(old, f) || !(old.bytes & read.bytes)) {
    old = read;
    return;
  }
  const uint8_t many = old.flags & (kManyWarps | kManyBlocks);
  const uint8_t bytes = old.bytes | read.bytes;
  if (old.stamp.block != read.stamp.block) {
    old = read;
    old.flags |= many | kManyBlocks;
  } else if (old.stamp.thread / 32 != read.stamp.thread / 32) {
    old.flags |= kManyWarps;
  } else {
    old.lanes |= read.lanes;
    old.stamp.clock = std::max(old.stamp.clock, read.stamp.clock);
  }
  old.bytes = bytes;
}

void check_cell(Cell& c, uintptr_t address, uintptr_t end, uintptr_t cell, Access access, bool atomic, uintptr_t pc) {
  const Fiber& f = *current;
  const uint8_t bytes = bytes_of(address, end, cell);
  const uintptr_t first = std::max(address, cell);
  if (access != Access::kWrite && (bytes & ~c.written)) {
    const Region& region = arena.regions[c.region];
    Report& r = report("uninitialized-read", "", {nullptr, 0}, pc);
    if (r.count == 1) r.text = "reads " + place(region, first) + ", which has not been written";
    c.written |= bytes;
  }
  const bool both_atomic = atomic && (c.write.flags & kAtomicFlag);
  if ((c.write.bytes & bytes) && !both_atomic && !before(c.write, f)) report_race(c.write, true, access, first, pc);
  const Record record = record_of(f, pc, bytes, atomic);
  if (access == Access::kRead) {
    if (!atomic) merge_read(c.read, record, f);
    return;
  }
  if ((c.read.bytes & bytes) && !before(c.read, f)) report_race(c.read, false, access, first, pc);
  c.write = record;
  c.written |= bytes;
}

// Tensors that share a cell have one region in it, so the cell alone does not say that an access is out of bounds.
bool inside_tensor(uintptr_t address, size_t bytes) {
  if (address - arena.base < kArenaBytes) return false;
  for (const Region& region : arena.regions) {
    if (address >= region.base && address + bytes <= region.base + region.bytes) return true;
  }
  return false;
}

void report_bounds(uintptr_t address, size_t bytes, Access access, uintptr_t pc) {
  Report& r = report("out-of-bounds", "", {nullptr, 0}, pc);
  if (r.count > 1) return;
  const bool outside = address - arena.base >= kArenaBytes;
  const Region* nearest = nullptr;
  uintptr_t best = ~uintptr_t(0);
  for (size_t i = 1; i < arena.regions.size(); ++i) {
    const Region& region = arena.regions[i];
    if (region.shared_slot >= 0 && region.shared_slot != current->block->slot) continue;
    if (outside != (region.base - arena.base >= kArenaBytes)) continue;
    const uintptr_t end = region.base + region.bytes;
    const uintptr_t distance = address < region.base ? region.base - address : address < end ? 0 : address - end;
    if (distance <= best) best = distance, nearest = &region;
  }
  r.text = std::string(verb(access)) + " " + std::to_string(bytes) + " bytes";
  if (!nearest) return;
  const bool below = address < nearest->base;
  r.text += " " + std::to_string(best) + " bytes " + (below ? "before" : "after the end of ") + (below ? " " : "") +
            nearest->name + " (" + std::to_string(nearest->bytes) + " bytes of " +
            (nearest->shared_slot >= 0 ? "shared" : "global") + " memory)";
}

}  // namespace

void shadow_access(uintptr_t address, size_t bytes, Access access, bool atomic, uintptr_t pc) {
  ++now;
  const Cell* cell_of_access = find_cell(address);
  const uint32_t id = cell_of_access ? cell_of_access->region : 0;
  const Region& region = arena.regions[id];
  const bool other_slot = region.shared_slot >= 0 && region.shared_slot != current->block->slot;
  const bool inside = id != 0 && address >= region.base && address + bytes <= region.base + region.bytes;
  if (other_slot || !(inside || inside_tensor(address, bytes))) {
    report_bounds(address, bytes, access, pc);
    if (address - arena.base >= kArenaBytes) abandon();  // other memory of the process
    return;
  }
  for (uintptr_t cell = address & ~uintptr_t(3); cell < address + bytes; cell += 4) {
    check_cell(cell_of(cell), address, address + bytes, cell, access, atomic, pc);
  }
  if (atomic && region.shared_slot < 0) order_atomic(address, access);
  if (runtime.options.counters && !atomic) count_access(region, address, bytes, access == Access::kWrite, pc);
}

void shadow_open(uint32_t id, bool initialised) {
  reserve_cells();
  const Region& region = arena.regions[id];
  const uintptr_t end = region.base + region.bytes;
  for (uintptr_t a = region.base & ~uintptr_t(3); a < end; a += 4) {
    open_page(a);
    Cell& c = cell_of(a);
    const uint8_t own = bytes_of(region.base, end, a);
    const auto written = static_cast<uint8_t>(initialised ? c.written | own : c.written & ~own);
    c = Cell();
    c.region = id;
    c.written = written;
  }
}

bool is_tracked(uintptr_t address) {
  const Cell* cell = find_cell(address);
  return cell != nullptr && cell->region != 0;
}

void host_wrote(uintptr_t base, size_t bytes) {
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (is_tracked(a)) cell_of(a).written |= bytes_of(base, base + bytes, a);
  }
}

void forget(const void* address, size_t bytes) {
  const auto base = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (is_tracked(a)) cell_of(a).written &= uint8_t(~bytes_of(base, base + bytes, a));
  }
}

void host_reads(uintptr_t base, size_t bytes, const char* by) {
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (!is_tracked(a) || !(bytes_of(base, base + bytes, a) & ~cell_of(a).written)) continue;
    report("uninitialized-read", std::string(by) + " reads a tensor of which not every byte was written",
           {runtime.kernel, 0});
    return;
  }
}

void shadow_close(uintptr_t base, size_t bytes) {
  for (uintptr_t a = base; a < base + bytes; a += 4) cell_of(a).region = 0;
}

void shadow_reset() {
  if (cells) madvise(cells, kArenaBytes / 4 * sizeof(Cell), MADV_DONTNEED);
  pages.clear();
  for (auto& entry : recent) entry = {};
  reset_order();
  reset_counters();
}

bool shadow_written(uintptr_t base, size_t bytes) {
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (bytes_of(base, base + bytes, a) & ~cell_of(a).written) return false;
  }
  return true;
}

void shadow_sync_lanes(Warp& warp, uint32_t lanes) {
  Fiber* first = &current->block->fibers[size_t(warp.index) * 32];
  uint32_t clock = 0;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) clock = std::max(clock, first[__builtin_ctz(rest)].clock);
  uint32_t joined[32] = {};
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const uint32_t* seen = warp.seen[__builtin_ctz(rest)];
    for (int i = 0; i < 32; ++i) joined[i] = std::max(joined[i], seen[i]);
  }
  for (uint32_t rest = lanes; rest; rest &= rest - 1) joined[__builtin_ctz(rest)] = clock;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    std::copy(joined, joined + 32, warp.seen[lane]);
    first[lane].clock = clock + 1;
  }
}

void shadow_start_launch() { start_order(); }

void shadow_start_block(Block& block) {
  for (Warp& w : block.warps) std::fill(&w.seen[0][0], &w.seen[0][0] + 32 * 32, 0u);
  order_start_block(block);
}

void shadow_fence(Fiber& fiber) {
  fiber.fence_time = ++now;
  fiber.fence_epoch = fiber.block->epoch;
  order_note_fence();
}

void shadow_barrier(Block& block) {
  for (Warp& w : block.warps) flush_counters(block, w);
}

void shadow_finish_warp(Warp& warp) { flush_counters(*current->block, warp); }

}  // namespace simt
