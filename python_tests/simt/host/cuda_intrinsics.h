// CUDA's device functions for the host compiler; included by simt.h.
#pragma once

#define SIMT_INLINE inline __attribute__((always_inline))

// ---- barriers, fences ----
SIMT_INLINE void __syncthreads(SIMT_HERE) { ::simt::barrier(::simt::Barrier::kPlain, 0, {file, line}); }
SIMT_INLINE int __syncthreads_count(int p, SIMT_HERE) {
  return ::simt::barrier(::simt::Barrier::kCount, p, {file, line});
}
SIMT_INLINE int __syncthreads_and(int p, SIMT_HERE) { return ::simt::barrier(::simt::Barrier::kAnd, p, {file, line}); }
SIMT_INLINE int __syncthreads_or(int p, SIMT_HERE) { return ::simt::barrier(::simt::Barrier::kOr, p, {file, line}); }
SIMT_INLINE void __syncwarp(unsigned mask = 0xffffffffu, SIMT_HERE) { ::simt::sync_warp(mask, {file, line}); }
SIMT_INLINE void __threadfence() { ::simt::fence(true); }
SIMT_INLINE void __nanosleep(unsigned) { ::simt::fence(false); }

// ---- warp operations ----
namespace simt {

template <class T>
SIMT_INLINE uint64_t to_bits(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warp operations take 4- and 8-byte values");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
SIMT_INLINE T from_bits(uint64_t bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
SIMT_INLINE T shuffle_value(unsigned mask, T value, int source, Loc loc) {
  return from_bits<T>(shuffle(mask, to_bits(value), source, loc));
}
template <class T, class F>
SIMT_UNWATCHED T reduce(unsigned mask, T value, F combine, Loc loc) {
  uint64_t all[32];
  gather(mask, to_bits(value), all, loc);
  bool first = true;
  T result = value;
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    const T v = from_bits<T>(all[i]);
    result = first ? v : combine(result, v);
    first = false;
  }
  return result;
}

}  // namespace simt

template <class T>
SIMT_INLINE T __shfl_sync(unsigned mask, T v, int source, int width = 32, SIMT_HERE) {
  const int lane = ::simt::lane();
  return ::simt::shuffle_value(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), {file, line});
}
template <class T>
SIMT_INLINE T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, SIMT_HERE) {
  const int lane = ::simt::lane(), source = lane - static_cast<int>(delta);
  return ::simt::shuffle_value(mask, v, source < (lane & ~(width - 1)) ? lane : source, {file, line});
}
template <class T>
SIMT_INLINE T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, SIMT_HERE) {
  const int lane = ::simt::lane(), source = lane + static_cast<int>(delta);
  return ::simt::shuffle_value(mask, v, source > (lane | (width - 1)) ? lane : source, {file, line});
}
template <class T>
SIMT_INLINE T __shfl_xor_sync(unsigned mask, T v, int lane_mask, int width = 32, SIMT_HERE) {
  const int lane = ::simt::lane(), source = lane ^ lane_mask;
  return ::simt::shuffle_value(mask, v, source > (lane | (width - 1)) ? lane : source, {file, line});
}
SIMT_INLINE unsigned __ballot_sync(unsigned mask, int p, SIMT_HERE) { return ::simt::vote(mask, p != 0, {file, line}); }
SIMT_INLINE int __any_sync(unsigned mask, int p, SIMT_HERE) { return ::simt::vote(mask, p != 0, {file, line}) != 0; }
SIMT_INLINE int __all_sync(unsigned mask, int p, SIMT_HERE) { return ::simt::vote(mask, p == 0, {file, line}) == 0; }
template <class T>
SIMT_UNWATCHED unsigned __match_any_sync(unsigned mask, T value, SIMT_HERE) {
  uint64_t all[32];
  ::simt::gather(mask, ::simt::to_bits(value), all, {file, line});
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= unsigned((mask >> i & 1) && all[i] == ::simt::to_bits(value)) << i;
  return same;
}
template <class T>
SIMT_INLINE T __reduce_add_sync(unsigned mask, T v, SIMT_HERE) {
  return ::simt::reduce(mask, v, [](T a, T b) { return T(a + b); }, {file, line});
}
template <class T>
SIMT_INLINE T __reduce_min_sync(unsigned mask, T v, SIMT_HERE) {
  return ::simt::reduce(mask, v, [](T a, T b) { return b < a ? b : a; }, {file, line});
}
template <class T>
SIMT_INLINE T __reduce_max_sync(unsigned mask, T v, SIMT_HERE) {
  return ::simt::reduce(mask, v, [](T a, T b) { return a < b ? b : a; }, {file, line});
}

// ---- tensor cores ----
// mma.m16n8k8 for TF32, see csrc/common/cuda/mma.cuh: the sums are exact up to one rounding towards zero.
SIMT_UNWATCHED inline void mma_m16n8k8_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2], SIMT_HERE) {
  const auto two = [](float low, float high) { return ::simt::to_bits(low) | ::simt::to_bits(high) << 32; };
  const auto tf32 = [](uint64_t bits, int half) {
    return double(::simt::from_bits<float>((bits >> 32 * half) & 0xffffe000u));
  };
  const ::simt::Loc loc{file, line};
  uint64_t all_a[2][32], all_b[32];
  ::simt::gather(0xffffffffu, two(a[0], a[1]), all_a[0], loc);
  ::simt::gather(0xffffffffu, two(a[2], a[3]), all_a[1], loc);
  ::simt::gather(0xffffffffu, two(b[0], b[1]), all_b, loc);
  const int g = ::simt::lane() / 4, t = ::simt::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    double sum = c[i];
    for (int k = 0; k < 8; ++k) {
      sum += tf32(all_a[k / 4][g * 4 + k % 4], i / 2) * tf32(all_b[(2 * t + i % 2) * 4 + k % 4], k / 4);
    }
    const float rounded = float(sum);
    c[i] = std::abs(double(rounded)) > std::abs(sum) ? std::nextafterf(rounded, 0.0f) : rounded;
  }
}

// ---- atomics ----
namespace simt {
template <class T, class F>
SIMT_UNWATCHED T atomic_update(volatile T* p, F update) {
  atomic_access(p, sizeof(T), __builtin_return_address(0));
  const T old = *p;
  *p = update(old);
  return old;
}
template <class T>
struct Same {
  using type = T;
};
template <class T>
using same = typename Same<T>::type;  // excludes an argument from template deduction, like CUDA's overloads
}  // namespace simt

#define SIMT_ATOMIC(name, expression)                                                   \
  template <class T>                                                                    \
  SIMT_INLINE T name(T* p, ::simt::same<T> v) {                                         \
    return ::simt::atomic_update(p, [v](T old) { return static_cast<T>(expression); }); \
  }
SIMT_ATOMIC(atomicAdd, old + v)
SIMT_ATOMIC(atomicMin, v < old ? v : old)
SIMT_ATOMIC(atomicOr, old | v)
#undef SIMT_ATOMIC

// ---- memory, bits, arithmetic ----
SIMT_INLINE float __uint_as_float(unsigned v) { return ::simt::from_bits<float>(::simt::to_bits(v)); }
SIMT_INLINE unsigned __float_as_uint(float v) { return ::simt::from_bits<unsigned>(::simt::to_bits(v)); }
SIMT_INLINE double __longlong_as_double(long long v) { return ::simt::from_bits<double>(::simt::to_bits(v)); }
SIMT_INLINE long long __double_as_longlong(double v) { return ::simt::from_bits<long long>(::simt::to_bits(v)); }

#define SIMT_MIN_MAX(T)                                           \
  SIMT_INLINE constexpr T min(T a, T b) { return b < a ? b : a; } \
  SIMT_INLINE constexpr T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
SIMT_INLINE float min(float a, float b) { return ::fminf(a, b); }
SIMT_INLINE float max(float a, float b) { return ::fmaxf(a, b); }
SIMT_INLINE double min(double a, double b) { return ::fmin(a, b); }
SIMT_INLINE double max(double a, double b) { return ::fmax(a, b); }
SIMT_INLINE double min(float a, double b) { return ::fmin(a, b); }
SIMT_INLINE double max(float a, double b) { return ::fmax(a, b); }
SIMT_INLINE double min(double a, float b) { return ::fmin(a, b); }
SIMT_INLINE double max(double a, float b) { return ::fmax(a, b); }
