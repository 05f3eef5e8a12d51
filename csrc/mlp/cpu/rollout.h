// Steps of a rollout of an MLP policy on the CPU. Rows are processed in blocks whose size depends on the shape only;
// one thread takes a block through all steps, so that its activations stay in that core's cache and no thread waits for
// another.
#pragma once

#include <mutex>

#include "common/cpu/factor.h"
#include "common/parallel_blocks.h"
#include "common/storage.h"
#include "draw/cpu/kernels.h"
#include "draw/host.h"
#include "mlp/cpu/rollout_kernel.h"
#include "mlp/rollout.h"

namespace svgdx::cpu {

template <class F>
void with_rollout_storage(const char*, ScalarType type, F f) {
  with_storage(type, f);
}

template <class S>
class MlpRollout {
  using C = Compute<S>;

 public:
  explicit MlpRollout(const MlpRolloutTensors& t)
      : t_(t),
        batch_(t.state.size(0)),
        dim_(t.state.size(1)),
        width_(t.argument.size(1)),
        layers_(t.hidden.size(0)),
        states_{new_empty(t.state, {batch_, dim_}, ScalarType::Char),
                new_empty(t.state, {batch_, dim_}, ScalarType::Char)},
        logits_(new_empty(t.hidden, {batch_, 3 * dim_}, t.hidden.scalar_type())),
        action_(new_zeros(t.state, {batch_}, ScalarType::Long)),
        actions_(new_empty(t.state, {batch_, t.steps}, ScalarType::Long)),
        block_(batch_ >= 128  ? 64
               : batch_ >= 64 ? 32
                              : 16),
        head_(turned(t.head), batch_ * (t.steps + 1)) {
    for (int64_t layer = 1; layer < layers_; ++layer) {
      deeper_.emplace_back(turned(torch::stable::select(t.deeper, 0, layer - 1)), batch_ * (t.steps + 1));
    }
    memcpy(out<int8_t>(states_[0]), data<int8_t>(t.state), batch_ * dim_);
  }

  // Returns the actions in forward order, (B, steps), and the final states.
  std::tuple<Tensor, Tensor> run() {
    const int64_t forward = blocks_in(t_.split), count = forward + blocks_in(batch_ - t_.split);
    parallel_blocks(count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const bool is_forward = i < forward;
        const int64_t start = is_forward ? 0 : t_.split, stop = is_forward ? t_.split : batch_;
        const int64_t row = start + (is_forward ? i : i - forward) * block_;
        walk({is_forward, start, row, std::min(block_, stop - row)});
      }
    });
    if (failed_) explain_sample(failed_->forward ? "gfn_sample_forward" : "gfn_sample_backward", *failed_);
    return {actions_, states_[t_.steps % 2]};
  }

 private:
  // Rows [row, row + rows) of one kind (forward or backward), whose rows begin at `start`.
  struct Block {
    bool forward;
    int64_t start, row, rows;
  };

  static Tensor turned(Tensor weight) { return torch::stable::transpose(weight, 0, 1); }
  int64_t blocks_in(int64_t rows) const { return (rows + block_ - 1) / block_; }

  void walk(const Block& at) {
    std::vector<int64_t> location(at.rows);
    std::vector<C> factor(at.rows);
    for (int64_t step = 0; step < t_.steps || (step == t_.steps && t_.logits); ++step) {
      visit(at, step, step > 0 ? location.data() : nullptr, factor.data());
      if (step == t_.steps || !draw(at, step, location.data(), factor.data())) return;
    }
  }

  // The block's activations (rows, H) of one layer.
  S* activations(const Block& at, int64_t layer, int64_t step) const {
    return out<S>(t_.activations(layer, step)) + at.row * width_;
  }

  void visit(const Block& at, int64_t step, const int64_t* location, const C* factor) const {
    S* here = activations(at, 0, step);
    const MlpFirstLayer<S> first{
        at.rows,     width_, out<C>(t_.argument) + at.row * width_, data<C>(t_.columns), location, factor,
        C(t_.slope), here};
    SVGDX_ISA_CALL(mlp_first_layer, first);
    for (int64_t layer = 1; layer < layers_; ++layer) {
      S* next = activations(at, layer, step);
      deeper_[layer - 1].multiply(at.rows, here, next, data<C>(t_.deeper_bias) + (layer - 1) * width_, C(t_.slope));
      here = next;
    }
    S* logits = out<S>(logits_) + at.row * 3 * dim_;
    head_.multiply(at.rows, here, logits, data<C>(t_.head_bias));
    if (t_.logits) keep(at, at.forward ? step : t_.steps - step, logits);
  }

  // Copies the rows' logits at one time into (B, times, 3D).
  void keep(const Block& at, int64_t time, const S* logits) const {
    const int64_t times = t_.logits->size(1), length = 3 * dim_;
    S* kept = out<S>(*t_.logits);
    for (int64_t r = 0; r < at.rows; ++r) {
      memcpy(kept + ((at.row + r) * times + time) * length, logits + r * length, length * sizeof(S));
    }
  }

  // Draws the block's moves and stores what they change; returns false if a row has no valid move.
  bool draw(const Block& at, int64_t step, int64_t* location, C* factor) {
    const int64_t start = at.start, first = at.row - start;
    const int64_t count = (at.forward ? t_.split : batch_) - start;
    const float scale = draw_scale(at.forward ? t_.temperature : 1.0);
    const SampleArgs<S> args{count,
                             dim_,
                             data<S>(logits_) + start * 3 * dim_,
                             data<int8_t>(states_[step % 2]) + start * dim_,
                             at.forward,
                             t_.key(at.forward, step),
                             scale,
                             float(at.forward ? t_.epsilon : t_.backward_epsilon),
                             out<int64_t>(action_) + start,
                             nullptr,  // the sums over trajectories give the log-probabilities
                             out<int8_t>(states_[(step + 1) % 2]) + start * dim_};
    SVGDX_ISA_CALL(gfn_sample, args, first, first + at.rows);
    int64_t* actions = out<int64_t>(actions_);
    for (int64_t r = 0; r < at.rows; ++r) {
      const int64_t drawn = args.action[first + r], row = at.row + r;
      if (drawn < 0) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!failed_) failed_ = args;
        return false;
      }
      location[r] = at.forward ? drawn / 2 : drawn;
      const int64_t bit = at.forward ? drawn % 2 : args.state[(first + r) * dim_ + drawn];
      factor[r] = C(at.forward ? bit + 1 : -bit - 1);
      actions[row * t_.steps + (at.forward ? step : t_.steps - 1 - step)] = 2 * location[r] + bit;
    }
    return true;
  }

  const MlpRolloutTensors& t_;
  int64_t batch_, dim_, width_, layers_;
  Tensor states_[2];
  Tensor logits_, action_, actions_;
  int64_t block_;
  std::vector<Factor<S>> deeper_;
  Factor<S> head_;
  std::mutex mutex_;
  std::optional<SampleArgs<S>> failed_;
};

}  // namespace svgdx::cpu
