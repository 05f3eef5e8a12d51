#include "field/cuda/forward.cuh"

namespace svgdx::cuda {

template int64_t field_forward_scratch(const FieldArgs<float>&);
template int64_t field_forward_scratch(const FieldArgs<double>&);
template void field_forward(const FieldArgs<float>&, void*, void*);
template void field_forward(const FieldArgs<double>&, void*, void*);

}  // namespace svgdx::cuda
