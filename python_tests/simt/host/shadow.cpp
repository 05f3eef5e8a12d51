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
// Launches are numbered over all calls, so a record of an earlier one needs no clearing.
struct Record {
  Stamp stamp;
  uint8_t bytes;  // mask of the four
  uint8_t flags;
  uint32_t lanes;
  uint32_t pc;  // relative to the library's image
};

struct alignas(64) Cell {
  Record write, read;
};
static_assert(sizeof(Cell) == 64);

// The region and a mask of the four bytes that have been written. Apart from the cell, so that ranges are opened and
// closed without touching cells.
struct Tag {
  uint32_t region : 28;
  uint32_t written : 4;
};

struct Word {
  Tag* tag;  // null if nothing in the page of the address is tracked
  Cell* cell;
  Word& operator++() {
    ++tag, ++cell;
    return *this;
  }
};

constexpr uintptr_t kPageBytes = 4096;
constexpr uintptr_t kPageWords = kPageBytes / 4;

struct Page {
  Tag tags[kPageWords];
  Cell cells[kPageWords];
};

Word of_arena{};
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;  // of the tensors, by page
std::vector<std::unique_ptr<Page>> unused;
struct {
  uintptr_t page;
  Page* shadow;
} recent[64];
uint32_t now = 0;

constexpr size_t kPagesKept = 256;  // from one call to the next

Word word_of(uintptr_t address) {
  if (address - arena.base < kArenaBytes) {
    const uintptr_t i = (address - arena.base) / 4;
    return {of_arena.tag + i, of_arena.cell + i};
  }
  const uintptr_t page = address / kPageBytes, i = address % kPageBytes / 4;
  auto& last = recent[page % 64];
  if (last.page != page) {
    const auto entry = pages.find(page);
    if (entry == pages.end()) return {nullptr, nullptr};
    last = {page, entry->second.get()};
  }
  return {last.shadow->tags + i, last.shadow->cells + i};
}

void open_page(uintptr_t address) {
  if (address - arena.base < kArenaBytes) return;
  std::unique_ptr<Page>& page = pages[address / kPageBytes];
  if (page) return;
  if (unused.empty()) {
    page.reset(new Page());
    return;
  }
  page = std::move(unused.back());
  unused.pop_back();
  std::fill(page->tags, page->tags + kPageWords, Tag());
}

template <class T>
T* reserve(size_t n) {
  void* p = mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return static_cast<T*>(p);
}

void reserve_arena_words() {
  if (!of_arena.tag) of_arena = {reserve<Tag>(kArenaBytes / 4), reserve<Cell>(kArenaBytes / 4)};
}

// Mask of those of the four bytes at `word` that lie in [address, end).
uint8_t bytes_of(uintptr_t address, uintptr_t end, uintptr_t word) {
  const unsigned from = address > word ? unsigned(address - word) : 0;
  const unsigned to = end < word + 4 ? unsigned(end - word) : 4;
  return static_cast<uint8_t>((1u << to) - (1u << from));
}

bool before(const Record& r, const Fiber& f) {
  if (r.stamp.launch != runtime.launch) return true;
  if (r.flags & kManyBlocks) return false;
  if (r.stamp.block != f.block->linear) return released_before(r.stamp, f);
  if (r.stamp.epoch < f.block->epoch) return true;
  if (r.flags & kManyWarps) return false;
  if (r.stamp.thread / 32 != f.thread / 32) return false;
  for (uint32_t rest = r.lanes & ~(1u << f.lane); rest; rest &= rest - 1) {
    if (f.warp->seen[f.lane][__builtin_ctz(rest)] < r.stamp.clock) return false;
  }
  return true;
}

const auto image = reinterpret_cast<uintptr_t>(&now);

Record record_of(const Fiber& f, uintptr_t pc, bool atomic) {
  Record r;
  r.stamp = {now,
             runtime.launch,
             static_cast<uint32_t>(f.block->linear),
             f.block->epoch,
             f.clock,
             static_cast<uint16_t>(f.thread)};
  r.pc = static_cast<uint32_t>(pc - image);
  r.lanes = 1u << f.lane;
  r.bytes = 0;
  r.flags = atomic ? kAtomicFlag : 0;
  return r;
}

uintptr_t pc_of(const Record& r) { return image + static_cast<uintptr_t>(static_cast<int32_t>(r.pc)); }

const char* verb(Access a) { return a == Access::kRead ? "reads" : a == Access::kWrite ? "writes" : "updates"; }

std::string place(const Region& region, uintptr_t address) {
  return region.name + " + " + std::to_string(address - region.base) + " bytes";
}

void report_race(const Record& old, bool old_writes, Access access, uintptr_t address, uintptr_t pc) {
  const Region& region = arena.regions[word_of(address).tag->region];
  const bool shared = region.shared_slot >= 0;
  const bool other_block = old.stamp.block != current->block->linear;
  Report& r = report(shared ? "shared-race" : "global-race", "", {nullptr, 0}, pc, pc_of(old));
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
    old.stamp.clock = std::max<uint32_t>(old.stamp.clock, read.stamp.clock);
  }
  old.bytes = bytes;
}

void check_word(Word word, uintptr_t address, Access access, const Record& record, uintptr_t pc) {
  const Fiber& f = *current;
  Cell& c = *word.cell;
  const uint8_t bytes = record.bytes;
  if (access != Access::kWrite && (bytes & ~word.tag->written)) {
    const Region& region = arena.regions[word.tag->region];
    Report& r = report("uninitialized-read", "", {nullptr, 0}, pc);
    if (r.count == 1) r.text = "reads " + place(region, address) + ", which has not been written";
    word.tag->written |= bytes;
  }
  const bool both_atomic = record.flags & c.write.flags & kAtomicFlag;
  if ((c.write.bytes & bytes) && !both_atomic && !before(c.write, f)) report_race(c.write, true, access, address, pc);
  if (access == Access::kRead) {
    if (!(record.flags & kAtomicFlag)) merge_read(c.read, record, f);
    return;
  }
  if ((c.read.bytes & bytes) && !before(c.read, f)) report_race(c.read, false, access, address, pc);
  c.write = record;
  word.tag->written |= bytes;
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
  Word word = word_of(address);
  const uint32_t id = word.tag ? word.tag->region : 0;
  const Region& region = arena.regions[id];
  const bool other_slot = region.shared_slot >= 0 && region.shared_slot != current->block->slot;
  const bool inside = id != 0 && address >= region.base && address + bytes <= region.base + region.bytes;
  if (other_slot || !(inside || inside_tensor(address, bytes))) {
    report_bounds(address, bytes, access, pc);
    if (address - arena.base >= kArenaBytes) abandon();  // other memory of the process
    return;
  }
  Record record = record_of(*current, pc, atomic);
  const uintptr_t end = address + bytes;
  for (uintptr_t a = address & ~uintptr_t(3); a < end; a += 4, ++word) {
    if (a > address && a % kPageBytes == 0) word = word_of(a);
    record.bytes = bytes_of(address, end, a);
    check_word(word, std::max(address, a), access, record, pc);
  }
  if (atomic && region.shared_slot < 0) order_atomic(address, access);
  if (runtime.options.counters && !atomic) count_access(region, address, bytes, access == Access::kWrite, pc);
}

void shadow_open(uint32_t id, bool initialised) {
  reserve_arena_words();
  const Region& region = arena.regions[id];
  const uintptr_t end = region.base + region.bytes;
  for (uintptr_t a = region.base & ~uintptr_t(3); a < end; a += 4) {
    open_page(a);
    const Word word = word_of(a);
    const uint8_t own = bytes_of(region.base, end, a);
    word.tag->region = id;
    word.tag->written = initialised ? word.tag->written | own : word.tag->written & ~own;
    if (region.shared_slot >= 0) *word.cell = Cell();  // of an earlier block of this launch
  }
}

bool is_tracked(uintptr_t address) {
  const Tag* tag = word_of(address).tag;
  return tag != nullptr && tag->region != 0;
}

void host_wrote(uintptr_t base, size_t bytes) {
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (is_tracked(a)) word_of(a).tag->written |= bytes_of(base, base + bytes, a);
  }
}

void forget(const void* address, size_t bytes) {
  const auto base = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (is_tracked(a)) word_of(a).tag->written &= uint8_t(~bytes_of(base, base + bytes, a));
  }
}

void host_reads(uintptr_t base, size_t bytes, const char* by) {
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (!is_tracked(a) || !(bytes_of(base, base + bytes, a) & ~word_of(a).tag->written)) continue;
    report("uninitialized-read", std::string(by) + " reads a tensor of which not every byte was written",
           {runtime.kernel, 0});
    return;
  }
}

void shadow_close(uintptr_t base, size_t bytes) {
  const Word word = word_of(base);
  std::fill(word.tag, word.tag + (bytes + 3) / 4, Tag());
}

void shadow_reset() {
  if (of_arena.tag && arena_is_large()) {
    madvise(of_arena.tag, kArenaBytes / 4 * sizeof(Tag), MADV_DONTNEED);
    madvise(of_arena.cell, kArenaBytes / 4 * sizeof(Cell), MADV_DONTNEED);
  } else if (of_arena.tag) {
    shadow_close(arena.base, arena.next - arena.base);
    for (const Block& b : runtime.blocks) {
      const uintptr_t base = slot_base(b.slot);
      if (b.shared_next > base) shadow_close(base, b.shared_next - base);
    }
  }
  for (auto& entry : pages) {
    if (unused.size() < kPagesKept) unused.push_back(std::move(entry.second));
  }
  pages.clear();
  for (auto& entry : recent) entry = {};
  now = 0;
  reset_order();
  reset_counters();
}

bool shadow_written(uintptr_t base, size_t bytes) {
  for (uintptr_t a = base & ~uintptr_t(3); a < base + bytes; a += 4) {
    if (bytes_of(base, base + bytes, a) & ~word_of(a).tag->written) return false;
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
