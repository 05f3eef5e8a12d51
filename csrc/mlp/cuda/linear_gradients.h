// The gradients of the parameters of linear layers on CUDA: products of torch's, a group of sums for each block of
// rows.
#pragma once

#include "common/tensors.h"

namespace svgdx::cuda {

template <class S>
class LinearGradients {
 public:
  // `length` parameters; `blocks` of rows, each of which is a group.
  LinearGradients(const Tensor& like, int64_t blocks, int64_t length)
      : groups_(blocks), length_(length), sums_(new_empty(like, {blocks, length}, like.scalar_type())) {}

  int64_t groups() const { return groups_; }

  // Ones, for the sums over at most this many rows.
  static Tensor scratch(const Tensor& like, int64_t rows, int64_t, int64_t) {
    return torch::stable::full({1, rows}, 1.0, like.scalar_type(), std::nullopt, like.device());
  }

  // Writes the gradients of a layer's weight (out, in) and bias (out), which end at `end`; returns their start. The
  // bias was added to the first `biased` rows only.
  int64_t add(int64_t group, int64_t end, const Tensor& grad, const Tensor& inputs, int64_t biased,
              const Tensor& scratch) const {
    const int64_t outputs = grad.size(1), columns = inputs.size(1);
    const int64_t bias = end - outputs, weight = bias - outputs * columns;
    Tensor rows = grad;
    aten("mm", "out", torch::stable::transpose(rows, 0, 1), inputs, part(group, weight, outputs, columns));
    add_rows(group, bias, torch::stable::narrow(rows, 0, 0, biased), scratch);
    return weight;
  }

  // Writes the sums of rows of numbers to those that start at `begin`.
  void add_rows(int64_t group, int64_t begin, const Tensor& rows, const Tensor& scratch) const {
    Tensor ones = scratch;
    aten("mm", "out", torch::stable::narrow(ones, 1, 0, rows.size(0)), rows, part(group, begin, 1, rows.size(1)));
  }

  // The sums of all groups.
  Tensor total() const {
    if (groups_ == 1) return torch::stable::select(sums_, 0, 0);
    return torch::stable::sum(sums_, torch::headeronly::IntHeaderOnlyArrayRef({0}), false);
  }

 private:
  Tensor part(int64_t group, int64_t first, int64_t rows, int64_t cols) const {
    Tensor of_group = torch::stable::select(sums_, 0, group);
    return torch::stable::view(torch::stable::narrow(of_group, 0, first, rows * cols), {rows, cols});
  }

  int64_t groups_, length_;
  Tensor sums_;
};

}  // namespace svgdx::cuda
