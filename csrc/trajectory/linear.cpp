// Host layer of linear_trajectory_log_prob, compiled once for each backend: the policy's last layer, in blocks of rows,
// fused with the log-probabilities.
#include "common/limits.h"
#include "common/products.h"
#include "common/registration.h"
#include SVGDX_BACKEND_HEADER(common, factor.h)
#include "trajectory/host.h"
#include SVGDX_BACKEND_HEADER(trajectory, sorted.h)

namespace svgdx::SVGDX_BACKEND {

// A view of rows [first, first + count) of a matrix.
static Tensor rows_of(Tensor matrix, int64_t first, int64_t count) {
  return torch::stable::narrow(matrix, 0, first, count);
}

// Detached: autograd is disabled on the calling thread, but not on the pool's threads.
static Tensor detached(const Tensor& t) { return aten("detach", "", dense(t)); }

static const char* checked(const char* op, const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias) {
  check_floating(op, "hidden", hidden);
  SVGDX_CHECK(hidden.dim() >= 2, op, "hidden must have shape (..., T+1, H), but has ", text(sizes_of(hidden)));
  SVGDX_CHECK(weight.dim() == 2 && weight.size(0) % 3 == 0 && weight.size(1) == hidden.size(hidden.dim() - 1), op,
              "weight must have shape (3D, ", hidden.size(hidden.dim() - 1), "), but has ", text(sizes_of(weight)));
  check_device(op, "weight", weight, hidden);
  check_dtype(op, "weight", weight, hidden.scalar_type());
  if (bias) {
    check_shape(op, "bias", *bias, {weight.size(0)}, "shape (3D,)");
    check_device(op, "bias", *bias, hidden);
    check_dtype(op, "bias", *bias, hidden.scalar_type());
  }
  return op;
}

// The layer's arguments, with all hidden rows as one matrix (R, H).
struct Layer {
  Walks walks;
  Tensor hidden, weight_t;
  OptionalTensor bias;
  int64_t rows, block;

  Layer(const char* op, const Tensor& hidden_in, const Tensor& weight, const OptionalTensor& bias_in,
        const Tensor& actions, const OptionalTensor& initial)
      : walks(checked(op, hidden_in, weight, bias_in), "hidden", hidden_in, weight.size(0) / 3, actions, initial),
        hidden(torch::stable::reshape(detached(hidden_in), {walks.shape.rows(), hidden_in.size(hidden_in.dim() - 1)})),
        weight_t(torch::stable::transpose(detached(weight), 0, 1)),
        bias(bias_in ? OptionalTensor(as_type(detached(*bias_in), compute_type(bias_in->scalar_type())))
                     : std::nullopt),
        rows(walks.shape.rows()) {
    const int64_t fitting = std::max<int64_t>(64, kBlockNumbers / std::max<int64_t>(1, weight.size(0)));
    block = std::min({kLinearRows, kBlockRows, fitting, std::max<int64_t>(1, rows)});
  }

  int64_t blocks() const { return (rows + block - 1) / block; }

  // The weight as the logits' factor, for all rows.
  template <class S>
  Factor<S> factor() const {
    return Factor<S>(weight_t, rows);
  }

  // Writes the logits of rows [first, first + count) to `to`, (count, 3D).
  template <class S>
  void logits(const Factor<S>& factor, int64_t first, int64_t count, const Tensor& to) const {
    factor.multiply(rows_of(hidden, first, count), to, bias);
  }
};

static std::tuple<Tensor, Tensor, Tensor> linear(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                                                 const Tensor& actions, const OptionalTensor& initial_state) {
  const Guard guard(hidden);
  const Layer layer("linear_trajectory_log_prob", hidden, weight, bias, actions, initial_state);
  const Walks& w = layer.walks;
  return log_probs(w, hidden, [&](auto storage, auto* normalizers, auto* row_log_prob) {
    using S = decltype(storage);
    const auto factor = layer.factor<S>();
    for_blocks(layer.blocks(), [&](int64_t begin, int64_t end) {
      const Tensor logits = new_empty(layer.hidden, {layer.block, 3 * w.shape.dim}, hidden.scalar_type());
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = k * layer.block, count = std::min(layer.block, layer.rows - first);
        layer.logits(factor, first, count, rows_of(logits, 0, count));
        trajectory_rows<S>({w.shape, first, count, data<S>(logits), data<int64_t>(w.actions), data<int32_t>(w.set_time),
                            normalizers, row_log_prob},
                           stream(hidden));
      }
    });
  });
}

// For rows [first, first + count), writes the logits' gradient to part and, through the weight, that of hidden.
template <class S, class F>
static void blocks_backward(const Layer& layer, const Factor<S>& factor, const Factor<S>& weight, int64_t first,
                            int64_t count, const Tensor& part, const Tensor& grad_hidden, F rows_backward) {
  for_blocks((count + layer.block - 1) / layer.block, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t at = k * layer.block, rows = std::min(layer.block, count - at);
      const Tensor logits = rows_of(part, at, rows);
      layer.logits(factor, first + at, rows, logits);
      rows_backward(first + at, rows, logits);
      weight.multiply(logits, rows_of(grad_hidden, first + at, rows));
    }
  });
}

static void accumulate(Tensor& grad_weight, Tensor& grad_bias, const Tensor& grads, const Tensor& hidden,
                       bool with_bias) {
  const auto batched = [](const Tensor& t) { return torch::stable::unsqueeze(t, 0); };
  const ScalarType sums = grad_weight.scalar_type();
  const auto add = [&](Tensor& sum, const Tensor& part) {
    sum = torch::stable::subtract(sum, as_type(torch::stable::reshape(part, sizes_of(sum)), sums), -1.0);
  };
  add(grad_weight, product(batched(torch::stable::transpose(grads, 0, 1)), batched(hidden)));
  if (!with_bias) return;
  const Tensor ones =
      torch::stable::full({1, 1, grads.size(0)}, 1.0, grads.scalar_type(), std::nullopt, grads.device());
  add(grad_bias, product(ones, batched(grads)));
}

static std::tuple<Tensor, Tensor, Tensor> linear_backward(const OptionalTensor& grad_log_pf,
                                                          const OptionalTensor& grad_log_pb, const Tensor& hidden,
                                                          const Tensor& weight, const OptionalTensor& bias,
                                                          const Tensor& actions, const OptionalTensor& initial_state,
                                                          const Tensor& normalizers) {
  const Guard guard(hidden);
  const Layer layer("linear_trajectory_log_prob_backward", hidden, weight, bias, actions, initial_state);
  const Walks& w = layer.walks;
  const ScalarType type = hidden.scalar_type(), sums = compute_type(type);
  const OptionalTensor g = upstream(w, "grad_log_pf", grad_log_pf, hidden);
  const OptionalTensor h = upstream(w, "grad_log_pb", grad_log_pb, hidden);
  const Tensor lse = saved(w, normalizers, hidden), dense_weight = detached(weight);
  const Tensor grad_hidden =
      weight.size(0) > 0 ? new_empty(hidden, sizes_of(hidden), type) : new_zeros(hidden, sizes_of(hidden), type);
  const Tensor flat = torch::stable::reshape(grad_hidden, {layer.rows, layer.hidden.size(1)});
  const int64_t outputs = weight.size(0);
  Tensor grad_weight = new_zeros(hidden, sizes_of(weight), sums), grad_bias = new_zeros(hidden, {outputs}, sums);
  // Several blocks at a time, so that the sums over rows are a few products whose order depends on shapes only.
  const int64_t chunk = std::max<int64_t>(1, kLinearNumbers / (layer.block * std::max<int64_t>(1, outputs)));
  const int64_t most = std::min(layer.rows, chunk * layer.block);
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    using C = Compute<S>;
    const LinearGrad<S> whole{w.shape,
                              layer.hidden.size(1),
                              data<S>(layer.hidden),
                              data<S>(dense_weight),
                              data<C>(layer.bias),
                              data<int64_t>(w.actions),
                              data<int32_t>(w.set_time),
                              data<C>(lse),
                              data<C>(g),
                              data<C>(h),
                              out<S>(flat),
                              out<C>(grad_weight),
                              out<C>(grad_bias)};
    if (outputs > 0 && layer.rows > 0 && linear_backward_sorted<S>(whole)) return;
    const auto factor = layer.factor<S>();
    const Factor<S> back(dense_weight, layer.rows);
    const Tensor grads = new_empty(hidden, {most, outputs}, type);
    const auto rows_backward = [&](int64_t row, int64_t rows, const Tensor& logits) {
      trajectory_rows_backward<S>({w.shape, row, rows, data<S>(logits), data<int64_t>(w.actions),
                                   data<int32_t>(w.set_time), data<C>(lse), data<C>(g), data<C>(h), out<S>(logits)},
                                  stream(hidden));
    };
    for (int64_t first = 0; outputs > 0 && first < layer.rows; first += most) {
      const int64_t count = std::min(most, layer.rows - first);
      const Tensor part = rows_of(grads, 0, count);
      blocks_backward(layer, factor, back, first, count, part, flat, rows_backward);
      accumulate(grad_weight, grad_bias, part, rows_of(layer.hidden, first, count), bool(bias));
    }
  });
  return {grad_hidden, as_type(grad_weight, type), bias ? as_type(grad_bias, type) : new_empty(hidden, {0}, type)};
}

SVGDX_OPS(m) {
  m.op(
      "linear_trajectory_log_prob_forward(Tensor hidden, Tensor weight, Tensor? bias, Tensor actions, Tensor? "
      "initial_state=None) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&linear));
  m.op(
      "linear_trajectory_log_prob_backward(Tensor? grad_log_pf, Tensor? grad_log_pb, Tensor hidden, Tensor weight, "
      "Tensor? bias, Tensor actions, Tensor? initial_state, Tensor normalizers) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&linear_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
