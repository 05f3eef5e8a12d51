#include "memory/pool.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace svgdx::cpu {
namespace {

// Smaller blocks are malloc's, which keeps them itself.
constexpr int64_t kSmallest = int64_t(1) << 14;
constexpr int64_t kMostBytes = int64_t(1) << 26;
constexpr size_t kMostBlocks = 64;

// The blocks that no call uses, the one that waits longest first.
class Pool {
 public:
  Pool() { blocks_.reserve(kMostBlocks); }  // keep() must not throw

  // A block of at most twice the bytes, or none.
  Block take(int64_t bytes) {
    // A thread that would have to wait, or a forked process whose parent held the lock, does without the pool.
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    size_t best = blocks_.size();
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const int64_t size = blocks_[i].bytes;
      if (size >= bytes && size <= 2 * bytes && (best == blocks_.size() || size < blocks_[best].bytes)) best = i;
    }
    return best < blocks_.size() ? remove(best) : Block{};
  }

  // Whether it keeps the block, for which it frees older ones.
  bool keep(Block block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || block.bytes > kMostBytes) return false;
    while (bytes_ + block.bytes > kMostBytes || blocks_.size() == kMostBlocks) std::free(remove(0).memory);
    blocks_.push_back(block);
    bytes_ += block.bytes;
    return true;
  }

 private:
  Block remove(size_t i) {
    const Block block = blocks_[i];
    blocks_.erase(blocks_.begin() + int64_t(i));
    bytes_ -= block.bytes;
    return block;
  }

  std::mutex mutex_;
  std::vector<Block> blocks_;
  int64_t bytes_ = 0;
};

Pool& pool() {
  static Pool* const pool = new Pool;  // lives as long as any thread
  return *pool;
}

}  // namespace

Block take_block(int64_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (bytes >= kSmallest) {
    const Block block = pool().take(bytes);
    if (block.memory) return block;
  }
  void* const memory = std::aligned_alloc(64, bytes);
  if (!memory) throw std::bad_alloc();
  return {memory, bytes};
}

void give_back(Block block) {
  if (block.bytes < kSmallest || !pool().keep(block)) std::free(block.memory);
}

}  // namespace svgdx::cpu
