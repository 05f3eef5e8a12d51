#include "trajectory/cuda/masked.cuh"

namespace svgdx::cuda {

template void masked_rows(const MaskedRows<float>&, void*);
template void masked_rows(const MaskedRows<double>&, void*);
template void masked_rows(const MaskedRows<Bf16>&, void*);
template void masked_rows(const MaskedRows<Fp16>&, void*);
template void masked_rows_backward(const MaskedRowsGrad<float>&, void*);
template void masked_rows_backward(const MaskedRowsGrad<double>&, void*);
template void masked_rows_backward(const MaskedRowsGrad<Bf16>&, void*);
template void masked_rows_backward(const MaskedRowsGrad<Fp16>&, void*);

}  // namespace svgdx::cuda
