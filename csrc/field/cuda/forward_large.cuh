// phi, trace and stein for dim > 16: pair sums, kernel values and trace sums, product with the columns, epilogue.
#pragma once

#include <type_traits>

#include "field/cuda/expanded/forward.cuh"
#include "field/cuda/finish.cuh"
#include "field/cuda/large_plan.cuh"
#include "field/cuda/product.cuh"
#include "field/pair.h"

namespace svgdx::cuda {

// A group of lanes per row, which take packs of its columns in turn. Replaces the pair sums by kernel values in place
// and writes sum_j kappa (D - r.z) to trace_sums, (batches, rows).
// Occupancy is below one half: a lane's packs stay in registers.
template <class T>
__global__ void __launch_bounds__(kRowThreads, kPackBlocks)
    forward_kernel_values(FieldArgs<T> args, PairBlock block, ColumnPlan plan, T* sums, T* trace_sums, bool first,
                          int64_t first_block) {
  SVGDX_SHARED(T, shares, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t local = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const bool active = local < block.batches * block.rows;
  int64_t batch = active ? local : 0;
  const int64_t row = block.by_rows.split(batch);
  const T beta = beta_of(args.bandwidth, block.batch0 + batch);
  const T scale = beta * T(-0.5 * pair::kLog2E);
  const T dim = static_cast<T>(args.shape.dim);
  const int64_t self = args.self ? block.row0 + row - block.col0 : int64_t(-1);
  T trace_sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; active && chunk < plan.chunks; ++chunk) {
    const Columns<T> columns(plan, group.lane, chunk);
    WidePack<T> q{};
    WidePack<T> r_dot_s{};
    SVGDX_UNROLL_BY(4)
    for (int64_t split = 0; split < block.dim_splits; ++split) {
      const T* from = sums + row * block.padded_cols;
      columns.add(q, from + block.plane(split, 0, ForwardPairs::kSums, batch));
      columns.add(r_dot_s, from + block.plane(split, 1, ForwardPairs::kSums, batch));
    }
    WidePack<T> kappa;
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<T>; ++w) {
      const int64_t j = columns.first + w;
      kappa.v[w] = power_of_two(scale * q.v[w]);
      if (j < block.cols && j != self && kappa.v[w] != T(0)) {
        trace_sum += pair::trace_term(kappa.v[w], dim, r_dot_s.v[w] + beta * q.v[w]);
      }
    }
    columns.store(sums + row * block.padded_cols + block.plane(0, 0, ForwardPairs::kSums, batch), kappa);
  }
  trace_sum = group.combine(trace_sum, Sum<T>(), shares);
  if (active && group.lane == 0) trace_sums[local] = first ? trace_sum : trace_sums[local] + trace_sum;
}

inline LargePlan plan_large_forward(const FieldShape& shape) {
  return plan_large(shape, ForwardPairs::kSums, ForwardProduct::kOuts);
}

template <class T>
bool is_expanded(const FieldShape& shape) {
  return std::is_same_v<T, float> && is_expanded(shape);
}

// Layout of scratch: pair sums, then trace sums, then the parts of the product, then the expansion.
template <class T>
int64_t large_forward_bytes(const FieldArgs<T>& args) {
  const FieldShape& shape = args.shape;
  const LargePlan plan = plan_large_forward(shape);
  const int64_t rows = plan.batches * plan.rows;
  Expansion unplaced{};
  const int64_t expansion = is_expanded<T>(shape) ? place_expansion(unplaced, plan, shape.dim, nullptr) : 0;
  return (plan.pair_elements() + aligned_elements(rows) + aligned_elements(plan.parts * rows * shape.dim) + expansion) *
         int64_t(sizeof(T));
}

// The sums of a block of pairs, by differences.
template <class T>
void forward_differences(const char* op, const FieldArgs<T>& args, const LargePlan& plan, const PairBlock& block,
                         bool first, bool wide, T* sums, T* trace_sums, T* parts, void* stream) {
  const FieldShape& shape = args.shape;
  const PairInputs<T> pairs{shape, args.format, {args.query}, {args.x, args.score}, wide};
  pair_sums<T, ForwardPairs>(op, pairs, block, sums, stream);
  const ColumnPlan values = plan_columns<T>(block.padded_cols, true, row_lanes<T>(block.padded_cols, true));
  launch_blocks(op, values.row_blocks(block.batches * block.rows), [&](unsigned grid, int64_t first_block) {
    SVGDX_LAUNCH((forward_kernel_values<T>), grid, kRowThreads, 0, stream, args, block, values, sums, trace_sums, first,
                 first_block);
  });
  const ProductInputs<T> in{shape,
                            args.format,
                            args.query,
                            {args.x, args.score},
                            nullptr,
                            nullptr,
                            T(1),
                            args.bandwidth,
                            wide,
                            first,
                            ForwardPairs::kSums,
                            {plan.parts, plan.cols_per_part, {}, {}, {}}};
  product<T, ForwardProduct>(op, in, block, sums, parts, stream);
}

// Whether the product of a block writes the results: its sums are in one part, and stein needs no sum over dimensions.
inline bool completes(const FieldArgs<float>& args, const LargePlan& plan) {
  return plan.parts == 1 && args.stein == nullptr;
}

// The sums of a block of pairs, by expanded sums; or phi and the trace if it completes them.
inline void forward_expanded(const char* op, const FieldArgs<float>& args, const LargePlan& plan,
                             const PairBlock& block, const Expansion& expansion, bool wide, float* sums,
                             float* trace_sums, float* parts, void* stream) {
  const FieldShape& shape = args.shape;
  const PairProductInputs pairs{
      args.format, args.tf32, {args.query, nullptr},  args.x,         args.score,      args.x, shape.rows,
      shape.cols,  shape.dim, shape.cols * shape.dim, args.bandwidth, expansion.norms, wide};
  pair_products<1>(op, pairs, block, sums, stream);
  expanded_values(op, args, block, expansion, sums, trace_sums, stream);
  ValueProductInputs in{};
  in.expansion = expansion;
  in.args = args;
  in.trace_sums = trace_sums;
  in.wide = wide && is_aligned(args.phi, shape.dim);
  in.completes = completes(args, plan);
  in.grid = {plan.parts, plan.cols_per_part, {}, {}, {}};
  value_products(op, in, block, sums, parts, stream);
}

template <class T>
void field_forward_large(const FieldArgs<T>& args, T* scratch, void* stream) {
  const char* op = "field_forward";
  const FieldShape& shape = args.shape;
  const LargePlan plan = plan_large_forward(shape);
  const bool wide = all_aligned(shape.dim, args.query, args.x, args.score);
  const int64_t rows = plan.batches * plan.rows;
  T* sums = scratch;
  T* trace_sums = sums + plan.pair_elements();
  T* parts = trace_sums + aligned_elements(rows);
  const auto add_block = [&](const PairBlock& block, bool first) {
    if constexpr (std::is_same_v<T, float>) {
      if (is_expanded(shape)) {
        Expansion expansion;
        place_expansion(expansion, plan, shape.dim, parts + aligned_elements(plan.parts * rows * shape.dim));
        forward_expanded(op, args, plan, block, expansion, wide, sums, trace_sums, parts, stream);
        return completes(args, plan);
      }
    }
    forward_differences(op, args, plan, block, first, wide, sums, trace_sums, parts, stream);
    return false;
  };
  for_each_block(shape, plan, [&](const PairBlock& block, bool first, bool last) {
    if (add_block(block, first) || !last) return;
    finish_field(
        args, FieldSums<T>{parts, trace_sums, plan.parts, 1, block.batch0, block.row0, block.batches, block.rows, {}},
        stream);
  });
}

}  // namespace svgdx::cuda
