// The gradient of a policy's last layer, trajectory by trajectory. If a trajectory's locations are sorted by the step
// that sets them, the actions that are valid at s_t are one range of columns: those of P_F from the t-th location on,
// then those of P_B up to it. Only this half of the products is computed.
#pragma once

#include <vector>

#include "common/cpu/factor.h"
#include "common/parallel_blocks.h"
#include "trajectory/cpu/kernels.h"

namespace svgdx::cpu {

template <class C>
class SortedWalks {
  static constexpr int64_t kRows = 64;     // states at a time: fewer valid columns are computed in vain
  static constexpr int64_t kColumns = 32;  // the widest panel of a packed factor
  static constexpr int64_t kGroups = 8;    // of trajectories with separate sums

 public:
  explicit SortedWalks(const LinearGrad<C>& args)
      : args_(args), dim_(args.shape.dim), outputs_(3 * args.shape.dim), length_(outputs_ * (args.width + 1)) {}

  // Whether trajectories are so long that sorting the weight for each of them costs less than it saves.
  static bool fits(const TrajectoryShape& shape) {
    return active_isa() != Isa::baseline && shape.steps >= 2 * kRows && 2 * shape.steps >= shape.dim;
  }

  void run() const {
    const int64_t batch = args_.shape.batch, groups = std::min(batch, kGroups);
    std::vector<C> sums(groups * length_, C(0));
    parallel_blocks(groups, [&](int64_t begin, int64_t end) {
      if (begin >= end) return;
      Work work(*this);
      for (int64_t g = begin; g < end; ++g) {
        for (int64_t b = batch * g / groups; b < batch * (g + 1) / groups; ++b) {
          walk(b, work, sums.data() + g * length_);
        }
      }
    });
    for (int64_t g = 0; g < groups; ++g) {
      const C* share = sums.data() + g * length_;
      for (int64_t i = 0; i < outputs_ * args_.width; ++i) args_.grad_weight[i] += share[i];
      for (int64_t i = 0; i < outputs_; ++i) args_.grad_bias[i] += share[outputs_ * args_.width + i];
    }
  }

 private:
  // One thread's memory.
  struct Work {
    std::vector<int64_t> order;
    std::vector<C> weight, bias;       // sorted
    std::vector<C> forward, backward;  // the weight as a packed factor of the logits and of hidden's gradient
    std::vector<C> values, packed;     // of a block of rows: logits or their gradients, and its packed activations
    std::vector<C> sums;               // of the sorted gradients of weight and bias
    explicit Work(const SortedWalks& walks)
        : order(walks.dim_),
          weight(walks.outputs_ * walks.args_.width),
          bias(walks.outputs_),
          forward(SVGDX_ISA_CALL(packed_numbers<C>, walks.args_.width, walks.outputs_)),
          backward(SVGDX_ISA_CALL(packed_numbers<C>, walks.outputs_, walks.args_.width)),
          values(kRows * walks.outputs_),
          packed(SVGDX_ISA_CALL(packed_numbers<C>, kRows, walks.args_.width)),
          sums(walks.length_) {}
  };

  // Sorts the locations by the step that sets them; returns how many are set from the start.
  int64_t sort(int64_t b, std::vector<int64_t>& order) const {
    const int64_t steps = args_.shape.steps;
    const int32_t* set_time = args_.set_time + b * (dim_ + 1);
    int64_t initially_set = 0;
    for (int64_t d = 0; d < dim_; ++d) {
      if (set_time[d] < 0) order[initially_set++] = d;
    }
    int64_t never = initially_set + steps;
    for (int64_t d = 0; d < dim_; ++d) {
      if (set_time[d] == steps)
        order[never++] = d;
      else if (set_time[d] >= 0)
        order[initially_set + set_time[d]] = d;
    }
    return initially_set;
  }

  void walk(int64_t b, Work& work, C* totals) const {
    const int64_t width = args_.width, initially_set = sort(b, work.order), states = args_.shape.steps + 1;
    const int64_t* order = work.order.data();
    SVGDX_ISA_CALL(sort_rows, dim_, width, order, args_.weight, work.weight.data());
    if (args_.bias) SVGDX_ISA_CALL(sort_rows, dim_, int64_t(1), order, args_.bias, work.bias.data());
    const C* weight = work.weight.data();
    SVGDX_ISA_CALL(pack_factor, width, outputs_, weight, int64_t(1), width, work.forward.data());
    SVGDX_ISA_CALL(pack_factor, outputs_, width, weight, width, int64_t(1), work.backward.data());
    std::fill(work.sums.begin(), work.sums.end(), C(0));
    for (int64_t first = 0; first < states; first += kRows) {
      block(b, first, std::min(kRows, states - first), initially_set, work);
    }
    const C* sums = work.sums.data();
    SVGDX_ISA_CALL(add_sorted_rows, dim_, width, order, sums, totals);
    SVGDX_ISA_CALL(add_sorted_rows, dim_, int64_t(1), order, sums + outputs_ * width, totals + outputs_ * width);
  }

  void block(int64_t b, int64_t first, int64_t rows, int64_t initially_set, Work& work) const {
    const int64_t width = args_.width, states = args_.shape.steps + 1, set = initially_set + first;
    const int64_t column = 2 * std::min(set, dim_) / kColumns * kColumns;
    const int64_t end = (2 * dim_ + set + rows - 1 + kColumns - 1) / kColumns * kColumns;
    const int64_t columns = std::min(end, outputs_) - column, row = b * states + first;
    const C* hidden = args_.hidden + row * width;
    C* values = work.values.data();
    C* bias_sums = work.sums.data() + outputs_ * width + column;
    const PackedProduct<C> logits{rows,
                                  width,
                                  columns,
                                  hidden,
                                  width,
                                  1,
                                  work.forward.data() + column * width,
                                  args_.bias ? work.bias.data() + column : nullptr,
                                  C(1),
                                  false,
                                  values};
    SVGDX_ISA_CALL(packed_product, logits);
    const C pf = args_.grad_log_pf ? args_.grad_log_pf[b] : C(0), pb = args_.grad_log_pb ? args_.grad_log_pb[b] : C(0);
    const SortedRows<C> sorted{dim_,
                               args_.shape.steps,
                               initially_set,
                               first,
                               rows,
                               column,
                               columns,
                               args_.actions + b * (states - 1),
                               args_.normalizers + 2 * b * states,
                               pf,
                               pb,
                               values,
                               bias_sums};
    SVGDX_ISA_CALL(sorted_rows_backward, sorted);
    const PackedProduct<C> back{rows,
                                columns,
                                width,
                                values,
                                columns,
                                1,
                                work.backward.data(),
                                nullptr,
                                C(1),
                                false,
                                args_.grad_hidden + row * width,
                                column,
                                outputs_};
    SVGDX_ISA_CALL(packed_product, back);
    add_transposed_product(rows, columns, width, values, hidden, work.packed.data(), work.sums.data() + column * width);
  }

  const LinearGrad<C>& args_;
  int64_t dim_, outputs_, length_;
};

// Forms the gradient, or returns false if blocks of rows of all trajectories are faster.
template <class S>
bool linear_backward_sorted(const LinearGrad<S>& args) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    if (!SortedWalks<S>::fits(args.shape)) return false;
    SortedWalks<S>(args).run();
    return true;
  }
  return false;
}

}  // namespace svgdx::cpu
