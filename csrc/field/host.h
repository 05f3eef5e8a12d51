// What the host layers of the field ops and of ksd share.
#pragma once

#include <tuple>

#include "common/format.h"
#include "common/particles.h"
#include "field/args.h"
#include SVGDX_BACKEND_HEADER(field, storage.h)

namespace svgdx::SVGDX_BACKEND {

// Device memory, possibly none.
class Scratch {
 public:
  Scratch(const Tensor& like, int64_t bytes) {
    if (bytes > 0) tensor_ = scratch(like, bytes);
  }
  void* data() const { return tensor_ ? tensor_->mutable_data_ptr() : nullptr; }

 private:
  OptionalTensor tensor_;
};

inline FieldShape field_shape(const Particles& p) { return {p.batch, p.count, p.count, p.dim}; }

inline Format format_of(ScalarType type) {
  return type == ScalarType::BFloat16 ? Format::kBf16 : type == ScalarType::Half ? Format::kFp16 : Format::kFloat;
}

// If `p` holds particles in a 16-bit format, so do the arrays that `args` points to, and the kernels convert them.
template <class T>
void forward(const Particles& p, FieldArgs<T> args) {
  args.format = format_of(p.x.scalar_type());
  args.tf32 = permits_tf32();
  const Scratch memory(p.x, field_forward_scratch<T>(args));
  field_forward<T>(args, memory.data(), stream(p.x));
}

// Whether the kernels read particles and their upstream gradient as they are: if these have the same type.
inline bool reads_stored(const Tensor& x, const OptionalTensor& grad_phi) {
  return kReadsStored && (!grad_phi || grad_phi->scalar_type() == x.scalar_type());
}

template <class T>
void backward(const Particles& p, FieldGradArgs<T> args) {
  args.format = format_of(p.x.scalar_type());
  args.tf32 = permits_tf32();
  const Scratch memory(p.x, field_backward_scratch<T>(args));
  field_backward<T>(args, memory.data(), stream(p.x));
}

template <class T>
FieldGradArgs<T> self_args(const Particles& p, const OptionalTensor& g, const OptionalTensor& h,
                           const Numbers<T>& sigma) {
  FieldGradArgs<T> args{};
  args.shape = field_shape(p);
  args.particles = p.count;
  args.self = true;
  args.row_x = args.col_x = data<T>(p.x);
  args.row_score = args.col_score = data<T>(p.score);
  args.row_grad_phi = args.col_grad_phi = data<T>(g);
  args.row_grad_trace = args.col_grad_trace = data<T>(h);
  args.bandwidth = sigma.view();
  return args;
}

inline std::tuple<Tensor, Tensor, Tensor> particle_backward(const Particles& p, const OptionalTensor& g,
                                                            const OptionalTensor& h, const Tensor& bandwidth,
                                                            bool needs_bandwidth) {
  if (p.empty()) return {zeros(p.x, p), zeros(p.x, p), zeros_if(needs_bandwidth, bandwidth)};
  const Tensor grad_x = p.stored_like_x(), grad_score = p.stored_like_x();
  const OptionalTensor log_sigma = row_shares_if(needs_bandwidth, p, p.rows_shape);
  Tensor grad_bandwidth = not_needed(bandwidth);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, p.x, p.lead, true);
    FieldGradArgs<T> args = self_args<T>(p, g, h, sigma);
    args.grad_x = out<T>(grad_x);
    args.grad_score = out<T>(grad_score);
    args.grad_log_sigma = out<RowShare<T>>(log_sigma);
    backward(p, args);
    if (log_sigma) grad_bandwidth = sum_rows<T, RowShare<T>>(p, *log_sigma, bandwidth, sigma.view());
  });
  return {p.result(grad_x), p.result(grad_score), grad_bandwidth};
}

}  // namespace svgdx::SVGDX_BACKEND
