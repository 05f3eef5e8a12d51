#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

// Uninitialised memory, aligned for the widest SIMD vector.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(count ? static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)) : nullptr) {
    if (count && !data_) throw std::bad_alloc();
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace svgdx::SVGDX_ISA
