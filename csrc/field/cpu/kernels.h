// Entry points of the CPU field kernels, one per instruction set.
#pragma once

#include "common/isa.h"
#include "field/args.h"

namespace svgdx {

// Up to this dimension, a row's accumulators stay in registers and differences are formed directly.
constexpr int64_t kDirectDim = 8;
// From this dimension on, products are computed by torch's matrix products.
constexpr int64_t kMatmulDim = 192;
// Up to this many particles, a group of problems, one per SIMD lane, fits the second-level cache.
constexpr int64_t kBatchedParticles = 128;
// Up to this many particles, forming the differences of all pairs costs less than products.
constexpr int64_t kFewParticles = 8;
// Up to this many particles, and numbers in one array, a problem is small: one thread computes it in its cache. Fewer
// than four problems must also be little work, in multiply-adds of one product.
constexpr int64_t kSmallParticles = 128, kSmallNumbers = int64_t(1) << 15, kSmallWork = int64_t(1) << 20;

}  // namespace svgdx

SVGDX_ISA_DECLARE(bool field_batched_fits(const FieldShape& shape, bool self, int64_t element_size);
                  template <class T> void field_forward_batched(const FieldArgs<T>& args);
                  template <class T> void field_backward_batched(const FieldGradArgs<T>& args);
                  bool field_few_fits(const FieldShape& shape, bool self);
                  template <class T> void field_forward_few(const FieldArgs<T>& args);
                  template <class T> void field_backward_few(const FieldGradArgs<T>& args);
                  bool field_small_fits(const FieldShape& shape);
                  template <class T> void field_forward_small(const FieldArgs<T>& args);
                  template <class T> void field_backward_small(const FieldGradArgs<T>& args);
                  template <class T> void field_forward_direct(const FieldArgs<T>& args);
                  template <class T> void field_backward_direct(const FieldGradArgs<T>& args);
                  template <class T> void field_forward_symmetric(const FieldArgs<T>& args);
                  template <class T> void field_backward_symmetric(const FieldGradArgs<T>& args);
                  template <class T> void field_forward_tiled(const FieldArgs<T>& args);
                  template <class T> void field_backward_tiled(const FieldGradArgs<T>& args);
                  template <class T> void field_forward_plain(const FieldArgs<T>& args, int64_t first, int64_t batches);
                  template <class T>
                  void field_backward_plain(const FieldGradArgs<T>& args, int64_t first, int64_t batches);
                  template <class T> void field_forward_matmul(const FieldArgs<T>& args);
                  template <class T> void field_backward_matmul(const FieldGradArgs<T>& args);)
