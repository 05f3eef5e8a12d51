// Host layer of Metropolis-Hastings in a chain, compiled once for each backend: inner ops, whose Python side prepares
// every argument.
#include "chain/moves.h"

#include "common/expect.h"
#include "common/registration.h"
#include "field/host.h"

namespace svgdx::SVGDX_BACKEND {
namespace {

// The field of the particles at as many query points.
template <class T>
MovedArgs<T> field_at(const Particles& p, const Tensor& query, const Numbers<T>& sigma, const Tensor& phi,
                      const OptionalTensor& trace, const OptionalTensor& query_score) {
  FieldArgs<T> field{field_shape(p), data<T>(query), data<T>(p.x), data<T>(p.score), sigma.view(), false, out<T>(phi)};
  field.trace = trace ? out<T>(*trace) : nullptr;
  forward(p, field);
  return {p.batch,      p.count,     p.dim,      data<T>(query), data<T>(p.x), data<T>(p.score), data<T>(query_score),
          sigma.view(), out<T>(phi), field.trace};
}

void check_points(const Particles& p, const Tensor& query, const OptionalTensor& query_score) {
  SVGDX_CHECK(p.input == p.compute, p.op, "x must be float32 or float64, but is ", name_of(p.input));
  expect(p.op, "query", query, p.x, p.compute, p.shape, "the shape of x");
  if (query_score) expect(p.op, "query_score", *query_score, p.x, p.compute, p.shape, "the shape of x");
}

std::tuple<Tensor, Tensor> moved(const Tensor& query, const Tensor& x, const Tensor& score, const Tensor& bandwidth,
                                 const OptionalTensor& query_score) {
  const Guard guard(x);
  const Particles p("chain_moved", x, score);
  check_points(p, query, query_score);
  const Tensor phi = p.like_x(), trace = p.dim ? p.per_row() : new_zeros(p.x, p.rows_shape, p.compute);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    if (!p.empty()) chain_moved<T>(field_at<T>(p, query, sigma, phi, trace, query_score), stream(x));
  });
  return {phi, trace};
}

std::tuple<Tensor, Tensor> inverse(const Tensor& query, const Tensor& query_score, const Tensor& x, const Tensor& score,
                                   const Tensor& bandwidth, const Tensor& step_size, const Tensor& limit,
                                   const OptionalTensor& error, const Tensor& open, int64_t iteration) {
  const Guard guard(x);
  const Particles p("chain_inverse", x, score);
  check_points(p, query, query_score);
  if (error) expect(p.op, "error", *error, x, p.compute, p.shape, "the shape of x");
  SVGDX_CHECK(open.dim() == 1 && iteration >= 0 && iteration < open.size(0), p.op,
              "open must have an entry for the iteration, but has ", text(sizes_of(open)));
  expect(p.op, "open", open, x, ScalarType::Int, {open.size(0)}, "shape (iterations)");
  SVGDX_CHECK(error.has_value() == (iteration > 0), p.op, "error must be given after the first iteration");
  const Tensor next = p.like_x(), next_error = p.like_x(), phi = p.like_x();
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    const Numbers<T> eps(p.op, "step_size", step_size, x, p.lead, false);
    const Numbers<T> most(p.op, "limit", limit, x, p.lead, false);
    if (p.empty()) return;
    int32_t* flags = out<int32_t>(open);
    chain_inverse<T>(
        {field_at<T>(p, query, sigma, phi, std::nullopt, query_score), eps.view(), most.view(), data<T>(error),
         iteration > 0 ? flags + iteration - 1 : nullptr, flags + iteration, out<T>(next), out<T>(next_error)},
        stream(x));
  });
  return {next, next_error};
}

template <class T>
AcceptArgs<T> accept_args(const char* op, const Tensor& x, const Tensor& ahead, const Tensor& back, const Tensor& here,
                          const Tensor& log_p_ahead, const Tensor& log_p_back, const Tensor& gain,
                          const Tensor& gain_back, const Tensor& can_ahead, const Tensor& can_back, const Tensor& toss,
                          const Tensor& chance) {
  const ScalarType type = x.scalar_type();
  const Sizes shape = sizes_of(x), lead(shape.begin(), shape.end() - 1);
  for (const auto& [name, t] : {std::pair{"x", &x}, {"ahead", &ahead}, {"back", &back}}) {
    expect(op, name, *t, x, type, shape, "the shape of x");
  }
  for (const auto& [name, t] : {std::pair{"here", &here},
                                {"log_p_ahead", &log_p_ahead},
                                {"log_p_back", &log_p_back},
                                {"gain", &gain},
                                {"gain_back", &gain_back},
                                {"toss", &toss},
                                {"chance", &chance}}) {
    expect(op, name, *t, x, type, lead, "the shape of x without its last dimension");
  }
  for (const auto& [name, t] : {std::pair{"can_ahead", &can_ahead}, {"can_back", &can_back}}) {
    expect(op, name, *t, x, ScalarType::Bool, lead, "the shape of x without its last dimension");
  }
  return {toss.numel(),
          shape.back(),
          data<T>(x),
          data<T>(ahead),
          data<T>(back),
          data<T>(here),
          data<T>(log_p_ahead),
          data<T>(log_p_back),
          data<T>(gain),
          data<T>(gain_back),
          data<bool>(can_ahead),
          data<bool>(can_back),
          data<T>(toss),
          data<T>(chance),
          nullptr,
          nullptr,
          nullptr};
}

ScalarType check_x(const char* op, const Tensor& x) {
  const ScalarType type = x.scalar_type();
  SVGDX_CHECK(type == ScalarType::Float || type == ScalarType::Double, op, "x must be float32 or float64, but is ",
              name_of(type));
  SVGDX_CHECK(x.dim() >= 1, op, "x must have shape (..., D)");
  return type;
}

std::tuple<Tensor, Tensor, Tensor> accept(const Tensor& x, const Tensor& ahead, const Tensor& back, const Tensor& here,
                                          const Tensor& log_p_ahead, const Tensor& log_p_back, const Tensor& gain,
                                          const Tensor& gain_back, const Tensor& can_ahead, const Tensor& can_back,
                                          const Tensor& toss, const Tensor& chance) {
  const Guard guard(x);
  const ScalarType type = check_x("chain_accept", x);
  const Tensor next = new_empty(x, sizes_of(x), type), change = new_empty(x, sizes_of(here), type);
  const Tensor accepted = new_empty(x, sizes_of(here), ScalarType::Bool);
  typed(type, [&](auto zero) {
    using T = decltype(zero);
    AcceptArgs<T> args = accept_args<T>("chain_accept", x, ahead, back, here, log_p_ahead, log_p_back, gain, gain_back,
                                        can_ahead, can_back, toss, chance);
    args.next = out<T>(next);
    args.change = out<T>(change);
    args.accepted = out<bool>(accepted);
    chain_accept<T>(args, stream(x));
  });
  return {next, change, accepted};
}

using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Eight accept_backward(const OptionalTensor& grad_next_in, const OptionalTensor& grad_change_in, const Tensor& x,
                      const Tensor& ahead, const Tensor& back, const Tensor& here, const Tensor& log_p_ahead,
                      const Tensor& log_p_back, const Tensor& gain, const Tensor& gain_back, const Tensor& can_ahead,
                      const Tensor& can_back, const Tensor& toss, const Tensor& chance) {
  const Guard guard(x);
  const char* op = "chain_accept_backward";
  const ScalarType type = check_x(op, x);
  const OptionalTensor grad_next = as_dense(grad_next_in, type), grad_change = as_dense(grad_change_in, type);
  if (grad_next) expect(op, "grad_next", *grad_next, x, type, sizes_of(x), "the shape of x");
  if (grad_change) expect(op, "grad_change", *grad_change, x, type, sizes_of(here), "the shape of here");
  const auto points = [&] { return new_empty(x, sizes_of(x), type); };
  const auto numbers = [&] { return new_empty(x, sizes_of(here), type); };
  const Eight grads{points(), points(), points(), numbers(), numbers(), numbers(), numbers(), numbers()};
  typed(type, [&](auto zero) {
    using T = decltype(zero);
    const AcceptArgs<T> args = accept_args<T>(op, x, ahead, back, here, log_p_ahead, log_p_back, gain, gain_back,
                                              can_ahead, can_back, toss, chance);
    const AcceptGradArgs<T> grad_args = std::apply(
        [&](const auto&... grad) {
          return AcceptGradArgs<T>{args, data<T>(grad_next), data<T>(grad_change), out<T>(grad)...};
        },
        grads);
    chain_accept_backward<T>(grad_args, stream(x));
  });
  return grads;
}

}  // namespace

SVGDX_INNER_OPS(m) {
  m.op("chain_moved(Tensor query, Tensor x, Tensor score, Tensor bandwidth, Tensor? query_score) -> (Tensor, Tensor)",
       TORCH_BOX(&moved));
  m.op(
      "chain_inverse(Tensor query, Tensor query_score, Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, "
      "Tensor limit, Tensor? error, Tensor(a!) open, int iteration) -> (Tensor, Tensor)",
      TORCH_BOX(&inverse));
  m.op(
      "chain_accept(Tensor x, Tensor ahead, Tensor back, Tensor here, Tensor log_p_ahead, Tensor log_p_back, Tensor "
      "gain, Tensor gain_back, Tensor can_ahead, Tensor can_back, Tensor toss, Tensor chance) -> (Tensor, Tensor, "
      "Tensor)",
      TORCH_BOX(&accept));
  m.op(
      "chain_accept_backward(Tensor? grad_next, Tensor? grad_change, Tensor x, Tensor ahead, Tensor back, Tensor here, "
      "Tensor log_p_ahead, Tensor log_p_back, Tensor gain, Tensor gain_back, Tensor can_ahead, Tensor can_back, Tensor "
      "toss, Tensor chance) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      TORCH_BOX(&accept_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
