// Particles with their scores as the ops of SVGD take them: checks, compute types, and sums over rows.
#pragma once

#include "common/backend.h"
#include "common/row_sum.h"
#include "common/tensors.h"
#include SVGDX_BACKEND_HEADER(common, device.h)

namespace svgdx {

// Particles x (..., M, D) with their scores; the leading dimensions are flattened into one batch.
struct Particles {
  const char* op;
  Sizes shape, lead, rows_shape;  // (..., M, D), (...), (..., M)
  int64_t batch = 1, count, dim;
  ScalarType input, compute;
  Tensor x, score;  // dense, compute type; or of their own type if the op's kernels read it

  Particles(const char* op, const Tensor& x_in, const Tensor& score_in, bool as_stored = false)
      : op(op), shape(sizes_of(x_in)) {
    check_floating(op, "x", x_in);
    SVGDX_CHECK(shape.size() >= 2, op, "x must have shape (..., M, D), but has ", text(shape));
    check_shape(op, "score", score_in, shape, "the shape of x");
    check_same_dtype(op, "score", score_in, x_in.scalar_type());
    check_device(op, "score", score_in, x_in);
    lead = Sizes(shape.begin(), shape.end() - 2);
    rows_shape = Sizes(shape.begin(), shape.end() - 1);
    for (int64_t n : lead) batch *= n;
    count = shape[shape.size() - 2];
    dim = shape.back();
    input = x_in.scalar_type();
    compute = compute_type(input);
    x = as_dense(x_in, as_stored ? input : compute);
    score = as_dense(score_in, as_stored ? input : compute);
  }

  bool empty() const { return batch == 0 || count == 0 || dim == 0; }
  Tensor result(const Tensor& t) const { return as_type(t, input); }
  Tensor like_x() const { return new_empty(x, shape, compute); }
  Tensor stored_like_x() const { return new_empty(x, shape, x.scalar_type()); }
  Tensor per_row() const { return new_empty(x, rows_shape, compute); }
  OptionalTensor per_row_if(bool needed) const { return needed ? OptionalTensor(per_row()) : std::nullopt; }

  OptionalTensor dense(const char* name, const OptionalTensor& t, const Sizes& expected, const char* meaning,
                       ScalarType type) const {
    if (!t) return t;
    check_shape(op, name, *t, expected, meaning);
    check_floating(op, name, *t);
    check_device(op, name, *t, x);
    return as_dense(*t, type);
  }
  // A further input, which must have the dtype of x; upstream gradients need not.
  OptionalTensor input_like_x(const char* name, const OptionalTensor& t) const {
    if (t) check_same_dtype(op, name, *t, input);
    return like_x(name, t);
  }
  OptionalTensor like_x(const char* name, const OptionalTensor& t) const {
    return dense(name, t, shape, "the shape of x", x.scalar_type());
  }
  OptionalTensor per_row(const char* name, const OptionalTensor& t) const {
    return dense(name, t, rows_shape, "the shape of x without its last dimension", compute);
  }
};

inline Sizes with(const Sizes& lead, std::initializer_list<int64_t> tail) {
  Sizes sizes = lead;
  sizes.insert(sizes.end(), tail.begin(), tail.end());
  return sizes;
}

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

inline Tensor scratch(const Tensor& like, int64_t bytes) { return new_empty(like, {bytes}, ScalarType::Byte); }

// Calls f(T()) with the compute type.
template <class F>
void typed(ScalarType compute, const F& f) {
  if (compute == ScalarType::Double) {
    f(double());
  } else {
    f(float());
  }
}

inline Tensor zeros(const Tensor& t, const Particles& p) { return new_zeros(t, sizes_of(t), p.input); }

template <class T>
Tensor in_shape_of(const Particles& p, const Tensor& per_batch, const Tensor& number) {
  Tensor result = per_batch;
  if (number.dim() == 0 && number.scalar_type() == ScalarType::Double && p.compute != ScalarType::Double) {
    result = new_empty(p.x, {}, ScalarType::Double);  // in one step: a Python number is of this type
    row_sum<double, T>(1, {data<T>(per_batch), p.batch}, {}, 1.0, {}, out<double>(result), stream(p.x));
  } else if (number.dim() == 0 && !p.lead.empty()) {
    result = new_empty(p.x, {}, p.compute);
    row_sum<T, T>(1, {data<T>(per_batch), p.batch}, {}, T(1), {}, out<T>(result), stream(p.x));
  }
  return as_type(result, number.scalar_type());  // on x's device: the gradient of a 0-d tensor may be on any device
}

// Memory for a RowShare of each row.
inline Tensor row_shares(const Particles& p, const Sizes& rows_shape) {
  return new_empty(p.x, rows_shape, sizeof(RowShare<float>) == sizeof(double) ? ScalarType::Double : p.compute);
}
inline OptionalTensor row_shares_if(bool needed, const Particles& p, const Sizes& rows_shape) {
  return needed ? OptionalTensor(row_shares(p, rows_shape)) : std::nullopt;
}

// What a backward op returns as the gradient of a number that does not require one: an empty tensor.
inline Tensor not_needed(const Tensor& number) { return new_empty(number, {0}, number.scalar_type()); }
// The gradient of a number if there are no rows.
inline Tensor zeros_if(bool needed, const Tensor& number) {
  return needed ? new_zeros(number, sizes_of(number), number.scalar_type()) : not_needed(number);
}

// dL/dbandwidth or dL/dstep: sums the rows' shares, of type In, into the shape and dtype of that argument.
template <class T, class In = T>
Tensor sum_rows(const Particles& p, const Tensor& rows, const Tensor& number, PerBatch<T> divisor,
                const OptionalTensor& more = std::nullopt) {
  const Tensor per_batch = new_empty(p.x, p.lead, p.compute);
  const auto shares = [&](const Tensor& t) { return RowsOf<In>{data<In>(t), p.batch ? t.numel() / p.batch : 0}; };
  row_sum<T, In>(p.batch, shares(rows), more ? shares(*more) : RowsOf<In>{}, T(1), divisor, out<T>(per_batch),
                 stream(p.x));
  return in_shape_of<T>(p, per_batch, number);
}

}  // namespace svgdx::SVGDX_BACKEND
