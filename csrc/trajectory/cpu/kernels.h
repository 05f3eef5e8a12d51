// The kernels of the trajectory ops for one SIMD level, each for rows [begin, end) of its arguments.
#pragma once

#include "common/isa.h"
#include "trajectory/args.h"

namespace svgdx {

// Rows [first, first + rows) of one trajectory whose locations are sorted by the step that sets them. Of the sorted
// logits, 2D of P_F and then D of P_B, the columns [column, column + width) are there: all that are valid in the rows.
template <class C>
struct SortedRows {
  int64_t dim, steps, initially_set;
  int64_t first, rows, column, width;
  const int64_t* actions;      // (T)
  const C* normalizers;        // (T+1, 2)
  C grad_log_pf, grad_log_pb;  // 0 if there is no upstream gradient
  C* values;                   // (rows, width): the logits, which their gradients replace
  C* sums;                     // (width), to which the gradients are added
};

}  // namespace svgdx

SVGDX_ISA_DECLARE(
    template <class S> void trajectory_rows(const TrajectoryRows<S>& args, int64_t begin, int64_t end);
    template <class S> void trajectory_rows_backward(const TrajectoryRowsGrad<S>& args, int64_t begin, int64_t end);
    template <class S> void masked_rows(const MaskedRows<S>& args, int64_t begin, int64_t end);
    template <class S> void masked_rows_backward(const MaskedRowsGrad<S>& args, int64_t begin, int64_t end);
    template <class C> void sorted_rows_backward(const SortedRows<C>& args);
    // out[i] = or += in[i] for matrices (3D, width), where row i of the one that is `sorted` belongs to
    // location order[i / 2], or order[i - 2D] for i >= 2D, and the other's rows are in their own order.
    template <class C> void sort_rows(int64_t dim, int64_t width, const int64_t* order, const C* in, C* sorted);
    template <class C> void add_sorted_rows(int64_t dim, int64_t width, const int64_t* order, const C* sorted, C* out);)
