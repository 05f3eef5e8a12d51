// Steps of a rollout of an MLP policy on CUDA: per visit a product of torch's for each layer but the first, a kernel
// after each, and nothing that the host would have to wait for.
#pragma once

#include "common/storage.h"
#include "draw/host.h"
#include "mlp/cuda/visit.h"
#include "mlp/rollout.h"

namespace svgdx::cuda {

template <class F>
void with_rollout_storage(const char* op, ScalarType type, F f) {
  SVGDX_CHECK(type == ScalarType::Float || type == ScalarType::Double, op,
              "hidden must be float32 or float64 on CUDA, but is ", name_of(type));
  type == ScalarType::Double ? f(double{}) : f(float{});
}

template <class S>
class MlpRollout {
 public:
  explicit MlpRollout(const MlpRolloutTensors& t)
      : t_(t),
        batch_(t.state.size(0)),
        dim_(t.state.size(1)),
        width_(t.argument.size(1)),
        states_{new_empty(t.state, {batch_, dim_}, ScalarType::Char),
                new_empty(t.state, {batch_, dim_}, ScalarType::Char)},
        product_(numbers(width_)),
        head_product_(numbers(3 * dim_)),
        logits_(numbers(3 * dim_)),
        log_prob_(numbers(1)),
        action_(new_empty(t.state, {batch_}, ScalarType::Long)),
        actions_(new_empty(t.state, {batch_, t.steps}, ScalarType::Long)) {
    for (int64_t i = 0; i < t.deeper.size(0); ++i) {
      Tensor weight = torch::stable::select(t.deeper, 0, i);
      transposed_.push_back(torch::stable::transpose(weight, 0, 1));
    }
    Tensor head = t.head;
    transposed_.push_back(torch::stable::transpose(head, 0, 1));
  }

  // Returns the actions in forward order, (B, steps), and the final states. A row without a valid draw stays where it
  // is, with action -1.
  std::tuple<Tensor, Tensor> run() {
    if (t_.steps == 0) torch::stable::copy_(states_[0], t_.state);
    const int64_t visits = t_.logits ? t_.steps + 1 : t_.steps;
    if (batch_ > 0 && dim_ > 0 && visits > 0) {
      rollout_visit<S>(visit(-1), stream(t_.hidden));
      for (int64_t step = 0; step < visits; ++step) {
        layers(step);
        rollout_visit<S>(visit(step), stream(t_.hidden));
      }
    }
    return {actions_, states_[t_.steps == 0 ? 0 : (t_.steps - 1) % 2]};
  }

 private:
  Tensor numbers(int64_t width) const { return new_empty(t_.hidden, {batch_, width}, t_.hidden.scalar_type()); }

  // From the first layer's activations to the product of the head.
  void layers(int64_t step) const {
    Tensor in = t_.activations(0, step);
    const int64_t deeper = t_.deeper.size(0);
    for (int64_t i = 0; i < deeper; ++i) {
      aten("mm", "out", in, transposed_[i], product_);
      in = t_.activations(i + 1, step);
      const RolloutActivate<S> args{batch_,      width_,    data<S>(product_), data<S>(t_.deeper_bias) + i * width_,
                                    S(t_.slope), out<S>(in)};
      rollout_activate<S>(args, stream(t_.hidden));
    }
    aten("mm", "out", in, transposed_[deeper], head_product_);
  }

  // The visit after `step` moves; before the first visit, step -1, there is only the first layer.
  RolloutVisit<S> visit(int64_t step) const {
    RolloutVisit<S> args{};
    args.batch = batch_, args.split = t_.split, args.dim = dim_, args.width = width_;
    args.argument = out<S>(t_.argument);
    args.columns = data<S>(t_.columns);
    args.slope = S(t_.slope);
    args.logits = out<S>(logits_);
    if (step + 1 < t_.steps + (t_.logits ? 1 : 0)) args.hidden = out<S>(t_.activations(0, step + 1));
    if (step < 0) return args;
    args.product = data<S>(head_product_);
    args.bias = data<S>(t_.head_bias);
    if (t_.logits) {
      args.record = out<S>(*t_.logits);
      args.times = t_.logits->size(1);
      args.forward_time = step;
      args.backward_time = t_.steps - step;
    }
    args.draws = step < t_.steps;
    if (args.draws) set_draws(args, step);
    return args;
  }

  void set_draws(RolloutVisit<S>& args, int64_t step) const {
    args.state = data<int8_t>(step == 0 ? t_.state : states_[(step - 1) % 2]);
    args.next_state = out<int8_t>(states_[step % 2]);
    args.forward = t_.key(true, step);
    args.backward = t_.key(false, step);
    args.forward_scale = draw_scale(t_.temperature);
    args.backward_scale = draw_scale(1.0);
    args.forward_epsilon = float(t_.epsilon);
    args.backward_epsilon = float(t_.backward_epsilon);
    args.action = out<int64_t>(action_);
    args.log_prob = out<S>(log_prob_);
    args.actions = out<int64_t>(actions_);
    args.steps = t_.steps;
    args.forward_step = step;
    args.backward_step = t_.steps - 1 - step;
  }

  const MlpRolloutTensors& t_;
  int64_t batch_, dim_, width_;
  Tensor states_[2];
  Tensor product_, head_product_, logits_, log_prob_, action_, actions_;
  std::vector<Tensor> transposed_;  // weights of the layers after the first, the head's last
};

}  // namespace svgdx::cuda
