// Copies from global to shared memory that go on while the thread computes (cp.async).
//
//   AsyncCopies copies;
//   copies.copy<16>(to, from, inside);   starts a copy of 16 bytes, or zeros if not inside
//   copies.commit();                     ends a group of copies
//   copies.wait<1>();                    waits for all of this thread's groups but the last one; a barrier makes the
//                                        copies of all threads visible
#pragma once

#include "common/cuda/tile.cuh"

namespace svgdx::cuda {

#ifdef SVGDX_SIMT

// A copy may write at any time between its start and the wait: it writes at its start, so that races are seen, but the
// numbers count as written only from the wait on.
class AsyncCopies {
 public:
  template <int Bytes>
  void copy(float* to, const float* from, bool inside) {
    move<Bytes>(to, nullptr);
    ::simt::forget(to, Bytes);
    pending_[count_++] = {to, inside ? from : nullptr, &move<Bytes>};
  }
  void commit() { ends_[groups_++] = count_; }
  template <int Groups>
  void wait() {
    const int due = groups_ > Groups ? groups_ - Groups : 0;
    const int end = due == 0 ? 0 : ends_[due - 1];
    for (int i = 0; i < end; ++i) pending_[i].move(pending_[i].to, pending_[i].from);
    for (int i = end; i < count_; ++i) pending_[i - end] = pending_[i];
    for (int i = due; i < groups_; ++i) ends_[i - due] = ends_[i] - end;
    count_ -= end;
    groups_ -= due;
  }

 private:
  struct Copy {
    float* to;
    const float* from;
    void (*move)(float*, const float*);
  };
  template <int Bytes>
  static void move(float* to, const float* from) {
    Pack<float, Bytes / 4> pack{};
    if (from != nullptr) pack = *reinterpret_cast<const Pack<float, Bytes / 4>*>(from);
    *reinterpret_cast<Pack<float, Bytes / 4>*>(to) = pack;
  }
  Copy pending_[192];
  int ends_[8];
  int count_ = 0, groups_ = 0;
};

#else

class AsyncCopies {
 public:
  template <int Bytes>
  __device__ void copy(float* to, const float* from, bool inside) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const int bytes = inside ? Bytes : 0;
    if constexpr (Bytes == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes) : "memory");
    } else {
      static_assert(Bytes == 4 || Bytes == 8);
      asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(place), "l"(from), "r"(bytes), "n"(Bytes)
                   : "memory");
    }
  }
  __device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int Groups>
  __device__ void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
  }
};

#endif

}  // namespace svgdx::cuda
