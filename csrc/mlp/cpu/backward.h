// The gradient of a recorded rollout's MLP on the CPU, from the gradient of its logits. The states of all rows and
// visits are divided into at most eight groups with separate sums, so that the order of additions depends on the shape
// only.
#pragma once

#include "common/cpu/factor.h"
#include "draw/host.h"
#include "mlp/cpu/rollout_kernel.h"
#include "mlp/rollout.h"

namespace svgdx::cpu {

template <class S>
class MlpBackward {
  using C = Compute<S>;
  static constexpr int64_t kChunk = 576;  // states at a time, so that their gradients stay in a core's cache

 public:
  explicit MlpBackward(const MlpBackwardTensors& t)
      : t_(t),
        layers_(t.hidden.size(0)),
        states_(t.hidden.size(1) * t.hidden.size(2)),
        width_(t.hidden.size(3)),
        dim_(t.final.size(1)),
        groups_(std::max<int64_t>(1, std::min<int64_t>(8, states_ / 256))),
        length_(width_ * (dim_ + 1) + (layers_ - 1) * width_ * (width_ + 1) + 3 * dim_ * (width_ + 1)),
        flat_(torch::stable::reshape(t.hidden, {layers_, states_, width_})),
        sums_(new_zeros(t.hidden, {groups_, length_}, compute_type(t.hidden.scalar_type()))),
        head_(t.head, states_) {
    for (int64_t layer = 1; layer < layers_; ++layer) {
      deeper_.emplace_back(torch::stable::select(t.deeper, 0, layer - 1), states_);
    }
  }

  // The concatenated gradients of all parameters: weight and bias layer by layer, the head's last.
  Tensor run() {
    torch::stable::parallel_for(0, std::max<int64_t>(2, groups_), 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < std::min(end, groups_); ++g) group(g);
    });
    C* sums = out<C>(sums_);
    torch::stable::parallel_for(0, length_, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t g = 1; g < groups_; ++g) {
        SVGDX_ISA_CALL(mlp_add_rows, 1, end - begin, data<C>(sums_) + g * length_ + begin, sums + begin);
      }
    });
    return torch::stable::select(sums_, 0, 0);
  }

 private:
  // The buffers for one group's chunks.
  struct Work {
    Tensor grad_logits, states, grads[2];
    Tensor product;  // of a weight's gradient: the product, or its packed second factor
  };

  void group(int64_t g) {
    const int64_t begin = states_ * g / groups_, end = states_ * (g + 1) / groups_;
    const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
    const auto empty = [&](int64_t rows, int64_t cols) {
      return new_empty(t_.hidden, {rows, cols}, t_.hidden.scalar_type());
    };
    const int64_t most = std::min(kChunk, end - begin), largest = std::max(3 * dim_, width_);
    const Work work{empty(most, 3 * dim_),
                    empty(most, dim_),
                    {empty(most, width_), empty(most, width_)},
                    empty(std::max(largest, most), std::max(width_, dim_) + 15)};
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t first = begin + (end - begin) * i / chunks, stop = begin + (end - begin) * (i + 1) / chunks;
      chunk(g, first, stop - first, work);
    }
  }

  static Tensor rows_of(Tensor t, int64_t first, int64_t rows) { return torch::stable::narrow(t, 0, first, rows); }

  void chunk(int64_t g, int64_t first, int64_t rows, const Work& work) {
    const Tensor logits = rows_of(work.grad_logits, 0, rows), states = rows_of(work.states, 0, rows);
    const MlpGather<S> gather{first,
                              rows,
                              t_.hidden.size(2),
                              t_.split,
                              t_.hidden.size(1),
                              dim_,
                              data<S>(t_.grad_logits),
                              data<int32_t>(t_.set_time),
                              data<int8_t>(t_.final),
                              out<S>(logits),
                              out<S>(states)};
    SVGDX_ISA_CALL(mlp_gather, gather);
    const auto hidden = [&](int64_t layer) { return rows_of(torch::stable::select(flat_, 0, layer), first, rows); };
    C* at = out<C>(sums_) + (g + 1) * length_;
    at = add(at, logits, hidden(layers_ - 1), work);
    Tensor grad = rows_of(work.grads[0], 0, rows), other = rows_of(work.grads[1], 0, rows);
    head_.multiply(logits, grad);
    for (int64_t layer = layers_ - 1; layer >= 0; --layer) {
      const Tensor here = hidden(layer);
      SVGDX_ISA_CALL(mlp_activate_backward, rows * width_, data<S>(here), C(t_.slope), out<S>(grad));
      at = add(at, grad, layer > 0 ? hidden(layer - 1) : states, work);
      if (layer == 0) break;
      deeper_[layer - 1].multiply(grad, other);
      std::swap(grad, other);
    }
  }

  // Adds the gradients of a linear layer's weight (out, in) and bias (out), which end at `end`; returns their start.
  C* add(C* end, const Tensor& grad, const Tensor& inputs, const Work& work) const {
    const int64_t outputs = grad.size(1), columns = inputs.size(1);
    C *bias = end - outputs, *weight = bias - outputs * columns;
    if constexpr (std::is_same_v<S, C>) {
      add_transposed_product(grad.size(0), outputs, columns, data<C>(grad), data<C>(inputs), out<C>(work.product),
                             weight);
    } else {
      const Tensor product = over(out<S>(work.product), outputs, columns);
      Tensor rows = over(data<S>(grad), grad.size(0), outputs);
      cpu::multiply(torch::stable::transpose(rows, 0, 1), inputs, product);
      SVGDX_ISA_CALL(mlp_add_rows, 1, outputs * columns, data<S>(product), weight);
    }
    SVGDX_ISA_CALL(mlp_add_rows, grad.size(0), outputs, data<S>(grad), bias);
    return weight;
  }

  const MlpBackwardTensors& t_;
  int64_t layers_, states_, width_, dim_, groups_, length_;
  Tensor flat_, sums_;
  std::vector<Factor<S>> deeper_;
  Factor<S> head_;
};

}  // namespace svgdx::cpu
