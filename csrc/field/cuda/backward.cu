#include "field/cuda/backward.cuh"

namespace svgdx::cuda {

template int64_t field_backward_scratch(const FieldGradArgs<float>&);
template int64_t field_backward_scratch(const FieldGradArgs<double>&);
template void field_backward(const FieldGradArgs<float>&, void*, void*);
template void field_backward(const FieldGradArgs<double>&, void*, void*);

}  // namespace svgdx::cuda
