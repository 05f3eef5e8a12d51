// CUDA's vector types for the host compiler. 8- and 16-byte types are copied with one load and one store, as on a GPU,
// so that the checked build sees one access of that width.
#pragma once

#include <cstdint>

namespace simt::detail {
typedef short Chunk2 __attribute__((may_alias));
typedef int Chunk4 __attribute__((may_alias));
typedef int Chunk8 __attribute__((vector_size(8), may_alias));
typedef int Chunk16 __attribute__((vector_size(16), may_alias));
template <int Bytes>
struct ChunkOf;
template <>
struct ChunkOf<2> {
  using type = Chunk2;
};
template <>
struct ChunkOf<4> {
  using type = Chunk4;
};
template <>
struct ChunkOf<8> {
  using type = Chunk8;
};
template <>
struct ChunkOf<16> {
  using type = Chunk16;
};
}  // namespace simt::detail

#define SIMT_VECTOR_COPY(Name)                                                 \
  using Chunk = ::simt::detail::ChunkOf<kBytes>::type;                         \
  __attribute__((always_inline)) Name() {}                                     \
  __attribute__((always_inline)) Name(const Name& other) {                     \
    *reinterpret_cast<Chunk*>(this) = *reinterpret_cast<const Chunk*>(&other); \
  }                                                                            \
  __attribute__((always_inline)) Name& operator=(const Name& other) {          \
    *reinterpret_cast<Chunk*>(this) = *reinterpret_cast<const Chunk*>(&other); \
    return *this;                                                              \
  }

#define SIMT_VECTOR2(Name, T)                                         \
  struct alignas(2 * sizeof(T)) Name {                                \
    static constexpr int kBytes = 2 * sizeof(T);                      \
    T x, y;                                                           \
    SIMT_VECTOR_COPY(Name)                                            \
    __attribute__((always_inline)) Name(T x_, T y_) : x(x_), y(y_) {} \
  };                                                                  \
  inline __attribute__((always_inline)) Name make_##Name(T x, T y) { return Name(x, y); }

#define SIMT_VECTOR4(Name, T)                                                                   \
  struct alignas(16) Name {                                                                     \
    static constexpr int kBytes = 4 * sizeof(T);                                                \
    T x, y, z, w;                                                                               \
    SIMT_VECTOR_COPY(Name)                                                                      \
    __attribute__((always_inline)) Name(T x_, T y_, T z_, T w_) : x(x_), y(y_), z(z_), w(w_) {} \
  };                                                                                            \
  inline __attribute__((always_inline)) Name make_##Name(T x, T y, T z, T w) { return Name(x, y, z, w); }

SIMT_VECTOR2(float2, float)
SIMT_VECTOR2(int2, int)
SIMT_VECTOR2(uint2, unsigned)
SIMT_VECTOR2(double2, double)
SIMT_VECTOR2(longlong2, long long)
SIMT_VECTOR4(float4, float)
SIMT_VECTOR4(int4, int)
SIMT_VECTOR4(uint4, unsigned)

#undef SIMT_VECTOR2
#undef SIMT_VECTOR4
#undef SIMT_VECTOR_COPY

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
