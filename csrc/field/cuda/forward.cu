#include "field/cuda/forward.cuh"

namespace svgdx::cuda {

void field_forward_stored(const FieldArgs<float>& args, Format format, void* scratch, void* stream) {
  const StoredField<float> field{args, format};
  if (is_fused(args.shape)) return field_forward_fused(field, static_cast<float*>(scratch), stream);
  field_forward_registers(field, static_cast<float*>(scratch), stream);
}

template int64_t field_forward_scratch(const FieldArgs<float>&);
template int64_t field_forward_scratch(const FieldArgs<double>&);
template void field_forward(const FieldArgs<float>&, void*, void*);
template void field_forward(const FieldArgs<double>&, void*, void*);

}  // namespace svgdx::cuda
