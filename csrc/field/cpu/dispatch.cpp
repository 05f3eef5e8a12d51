// Selects the CPU kernel of the field ops by dimension and instruction set.
#include "common/isa.h"
#include "field/cpu/kernels.h"

namespace svgdx::cpu {

template <class T>
int64_t field_forward_scratch(const FieldArgs<T>&) {
  return 0;
}

template <class T>
void field_forward(const FieldArgs<T>& args, void*, void*) {
  if (SVGDX_ISA_CALL(field_batched_fits, args.shape, args.self, sizeof(T))) {
    SVGDX_ISA_CALL(field_forward_batched, args);
  } else if (args.shape.dim <= kDirectDim) {
    SVGDX_ISA_CALL(field_forward_direct, args);
  } else if (SVGDX_ISA_CALL(field_few_fits, args.shape, args.self)) {
    SVGDX_ISA_CALL(field_forward_few, args);
  } else if (SVGDX_ISA_CALL(field_small_fits, args.shape)) {
    SVGDX_ISA_CALL(field_forward_small, args);
  } else if (args.shape.dim >= kMatmulDim) {
    SVGDX_ISA_CALL(field_forward_matmul, args);
  } else if (args.self) {
    SVGDX_ISA_CALL(field_forward_symmetric, args);
  } else {
    SVGDX_ISA_CALL(field_forward_tiled, args);
  }
}

template <class T>
int64_t field_backward_scratch(const FieldGradArgs<T>&) {
  return 0;
}

template <class T>
void field_backward(const FieldGradArgs<T>& args, void*, void*) {
  if (SVGDX_ISA_CALL(field_batched_fits, args.shape, args.self, sizeof(T))) {
    SVGDX_ISA_CALL(field_backward_batched, args);
  } else if (args.shape.dim <= kDirectDim) {
    SVGDX_ISA_CALL(field_backward_direct, args);
  } else if (SVGDX_ISA_CALL(field_few_fits, args.shape, args.self)) {
    SVGDX_ISA_CALL(field_backward_few, args);
  } else if (SVGDX_ISA_CALL(field_small_fits, args.shape)) {
    SVGDX_ISA_CALL(field_backward_small, args);
  } else if (args.shape.dim >= kMatmulDim) {
    SVGDX_ISA_CALL(field_backward_matmul, args);
  } else if (args.self) {
    SVGDX_ISA_CALL(field_backward_symmetric, args);
  } else {
    SVGDX_ISA_CALL(field_backward_tiled, args);
  }
}

#define SVGDX_INSTANTIATE(T)                                        \
  template int64_t field_forward_scratch(const FieldArgs<T>&);      \
  template void field_forward(const FieldArgs<T>&, void*, void*);   \
  template int64_t field_backward_scratch(const FieldGradArgs<T>&); \
  template void field_backward(const FieldGradArgs<T>&, void*, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cpu
