#include "host/counters.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "host/memory.h"
#include "host/shadow.h"

namespace simt {
namespace {

struct Request {
  uint32_t lanes = 0;
  uintptr_t address[32];  // shared memory: the address that it would have on the device
};

std::vector<LineCount> sites;
std::unordered_map<uintptr_t, uint32_t> site_index;
// by resident block and warp; the key is access site and occurrence
std::unordered_map<uint64_t, Request> pending[kSlots][32];

uint32_t site_of(const Region& region, size_t bytes, bool write, uintptr_t pc) {
  const auto found = site_index.find(pc);
  if (found != site_index.end()) return found->second;
  LineCount c;
  c.pc = pc;
  c.kernel = runtime.kernel;
  c.shared = region.shared_slot >= 0;
  c.write = write;
  c.bytes_per_lane = static_cast<int>(bytes);
  sites.push_back(c);
  return site_index[pc] = static_cast<uint32_t>(sites.size() - 1);
}

// The distinct pieces of `unit` bytes that lanes [from, to) access, sorted.
class Pieces {
 public:
  Pieces(const Request& r, size_t bytes, uintptr_t unit, int from, int to) {
    for (int i = from; i < to; ++i) {
      if (!(r.lanes >> i & 1)) continue;
      for (uintptr_t p = r.address[i] / unit; p <= (r.address[i] + bytes - 1) / unit; ++p) add(p);
    }
    if (!sorted_) std::sort(piece_, piece_ + size_);
    if (!sorted_) size_ = static_cast<size_t>(std::unique(piece_, piece_ + size_) - piece_);
  }
  size_t size() const { return size_; }
  const uintptr_t* begin() const { return piece_; }
  const uintptr_t* end() const { return piece_ + size_; }

 private:
  void add(uintptr_t p) {
    if (size_ != 0 && sorted_ && p == piece_[size_ - 1]) return;
    sorted_ &= size_ == 0 || p > piece_[size_ - 1];
    piece_[size_++] = p;
  }
  uintptr_t piece_[32 * 16];
  size_t size_ = 0;
  bool sorted_ = true;
};

// 8-byte accesses are served per half warp, 16-byte ones per quarter warp; a part that reads only what an earlier part
// read is free. Within a part, each of the 32 banks serves one 4-byte word per wavefront.
void count_wavefronts(LineCount& c, const Request& r) {
  const auto bytes = static_cast<size_t>(c.bytes_per_lane);
  const int part = bytes > 8 ? 8 : bytes > 4 ? 16 : 32;
  std::vector<uintptr_t> before;
  for (int from = 0; from < 32; from += part) {
    const Pieces words(r, bytes, 4, from, from + part);
    if (words.size() == 0 || (!c.write && std::includes(before.begin(), before.end(), words.begin(), words.end())))
      continue;
    int64_t per_bank[32] = {};
    for (const uintptr_t w : words) ++per_bank[w % 32];
    c.wavefronts += *std::max_element(per_bank, per_bank + 32);
    c.least_wavefronts += static_cast<int64_t>((words.size() + 31) / 32);
    before.assign(words.begin(), words.end());
  }
}

bool all_aligned(const Request& r, size_t bytes) {
  for (uint32_t rest = r.lanes; rest; rest &= rest - 1) {
    if (r.address[__builtin_ctz(rest)] % bytes != 0) return false;
  }
  return true;
}

void finish(LineCount& c, const Request& r) {
  ++c.requests;
  if (c.shared) {
    count_wavefronts(c, r);
    return;
  }
  const auto bytes = static_cast<size_t>(c.bytes_per_lane);
  c.sectors += static_cast<int64_t>(Pieces(r, bytes, 32, 0, 32).size());
  const size_t unit = all_aligned(r, bytes) ? bytes : 1;  // aligned accesses coincide or share no byte
  c.bytes += static_cast<int64_t>(unit * Pieces(r, bytes, unit, 0, 32).size());
}

}  // namespace

void count_access(const Region& region, uintptr_t address, size_t bytes, bool write, uintptr_t pc) {
  Fiber& f = *current;
  const uint32_t site = site_of(region, bytes, write, pc);
  if (f.occurrences.size() <= site) f.occurrences.resize(site + 16, 0);
  // the upper half identifies the block and the barrier since which occurrences are counted
  const uint64_t era = (f.block->linear * 4096 + f.block->epoch + 1 + runtime.launch * 65537) << 32;
  uint64_t& count = f.occurrences[site];
  if ((count ^ era) >> 32) count = era;
  const uint64_t key = uint64_t(site) << 32 | uint32_t(count++);
  ++sites[site].accesses;
  auto& requests = pending[f.block->slot][f.warp->index];
  Request& r = requests[key];
  r.lanes |= 1u << f.lane;
  r.address[f.lane] = region.shared_slot >= 0 ? address - region.base + region.device_offset : address;
  if (r.lanes == 0xffffffffu) {
    finish(sites[site], r);
    requests.erase(key);
  }
}

void flush_counters(Block& block, Warp& warp) {
  auto& requests = pending[block.slot][warp.index];
  for (const auto& entry : requests) finish(sites[entry.first >> 32], entry.second);
  requests.clear();
}

void reset_counters() {
  sites.clear();
  site_index.clear();
  for (auto& slot : pending) {
    for (auto& requests : slot) requests.clear();
  }
}

std::vector<LineCount> shadow_counters() { return sites; }

}  // namespace simt
