// The gradients of the parameters of linear layers on the CPU: sums over rows, in at most eight groups with separate
// sums, so that the order of additions depends on the shape only.
#pragma once

#include "common/cpu/factor.h"
#include "mlp/cpu/rollout_kernel.h"

namespace svgdx::cpu {

template <class S>
class LinearGradients {
  using C = Compute<S>;

 public:
  // `length` parameters; `blocks` of rows, each of which is added to one group.
  LinearGradients(const Tensor& like, int64_t blocks, int64_t length)
      : groups_(std::max<int64_t>(1, std::min<int64_t>(8, blocks))),
        length_(length),
        sums_(new_zeros(like, {groups_, length}, compute_type(like.scalar_type()))) {}

  int64_t groups() const { return groups_; }

  // Scratch of `add` for at most this many rows, outputs and inputs of a layer.
  static Tensor scratch(const Tensor& like, int64_t rows, int64_t outputs, int64_t inputs) {
    return new_empty(like, {std::max(outputs, rows), inputs + 15}, like.scalar_type());
  }

  // Adds the gradients of a layer's weight (out, in) and bias (out), which end at `end`; returns their start. The bias
  // was added to the first `biased` rows only.
  int64_t add(int64_t group, int64_t end, const Tensor& grad, const Tensor& inputs, int64_t biased,
              const Tensor& scratch) const {
    const int64_t outputs = grad.size(1), columns = inputs.size(1);
    const int64_t bias = end - outputs, weight = bias - outputs * columns;
    C* sums = out<C>(sums_) + group * length_;
    if constexpr (std::is_same_v<S, C>) {
      add_transposed_product(grad.size(0), outputs, columns, data<C>(grad), data<C>(inputs), out<C>(scratch),
                             sums + weight);
    } else {
      const Tensor product = over(out<S>(scratch), outputs, columns);
      Tensor matrix = over(data<S>(grad), grad.size(0), outputs);
      cpu::multiply(torch::stable::transpose(matrix, 0, 1), inputs, product);
      SVGDX_ISA_CALL(mlp_add_rows, 1, outputs * columns, data<S>(product), sums + weight);
    }
    Tensor rows = grad;
    add_rows(group, bias, torch::stable::narrow(rows, 0, 0, biased), scratch);
    return weight;
  }

  // Adds rows of numbers to those that start at `begin`.
  void add_rows(int64_t group, int64_t begin, const Tensor& rows, const Tensor&) const {
    C* sums = out<C>(sums_) + group * length_ + begin;
    SVGDX_ISA_CALL(mlp_add_rows, rows.size(0), rows.size(1), data<S>(rows), sums);
  }

  // The sums of all groups.
  Tensor total() const {
    C* sums = out<C>(sums_);
    torch::stable::parallel_for(0, length_, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t g = 1; g < groups_; ++g) {
        SVGDX_ISA_CALL(mlp_add_rows, 1, end - begin, data<C>(sums_) + g * length_ + begin, sums + begin);
      }
    });
    return torch::stable::select(sums_, 0, 0);
  }

 private:
  int64_t groups_, length_;
  Tensor sums_;
};

}  // namespace svgdx::cpu
