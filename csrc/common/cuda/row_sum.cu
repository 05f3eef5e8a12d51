#include "common/cuda/row_sum.cuh"

namespace svgdx::cuda {

template void row_sum(int64_t, RowsOf<float>, RowsOf<float>, float, PerBatch<float>, float*, void*);
template void row_sum(int64_t, RowsOf<double>, RowsOf<double>, float, PerBatch<float>, float*, void*);
template void row_sum(int64_t, RowsOf<float>, RowsOf<float>, double, PerBatch<double>, double*, void*);
template void row_sum(int64_t, RowsOf<double>, RowsOf<double>, double, PerBatch<double>, double*, void*);

}  // namespace svgdx::cuda
