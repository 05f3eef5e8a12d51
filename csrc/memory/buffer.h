#pragma once

#include <cstdint>
#include <utility>

#include "common/vec.h"
#include "memory/pool.h"

namespace svgdx::SVGDX_ISA {

// Uninitialised memory, aligned for the widest SIMD vector.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : block_(count ? cpu::take_block(count * int64_t(sizeof(T))) : cpu::Block{}) {}
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, {})) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer() {
    if (block_.memory) cpu::give_back(block_);
  }
  T* get() const { return static_cast<T*>(block_.memory); }

 private:
  cpu::Block block_;
};

}  // namespace svgdx::SVGDX_ISA
