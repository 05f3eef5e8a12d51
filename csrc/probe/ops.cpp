// Host layer of rademacher and probe_trace, compiled once for each backend.
#include <tuple>

#include "common/key.h"
#include "common/registration.h"
#include "common/storage.h"
#include "probe/args.h"
#include SVGDX_BACKEND_HEADER(common, device.h)

namespace svgdx::SVGDX_BACKEND {

static Tensor signs_like(const Tensor& like, const PhiloxKey& key) {
  const Guard guard(like);
  check_floating("rademacher", "like", like);
  const Tensor signs = new_empty(like, sizes_of(like), like.scalar_type());
  if (signs.numel() == 0) return signs;
  with_storage(like.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    rademacher<S>({signs.numel(), key, out<S>(signs)}, stream(like));
  });
  return signs;
}

static Tensor rademacher_op(const Tensor& like, int64_t seed, int64_t offset) {
  return signs_like(like, number_key(seed, offset));
}

static Tensor rademacher_key(const Tensor& like, const Tensor& key, int64_t offset) {
  return signs_like(like, TensorKey("rademacher", key, offset, "like", like).key);
}

// Contiguous probes and Hessian-vector products of the same shape, (V, ..., D).
struct Pair {
  Tensor probe, hvp;
  Sizes lead;
  int64_t probes, points, dim;

  Pair(const Tensor& probe_in, const Tensor& hvp_in) : probe(probe_in), hvp(hvp_in) {
    const char* op = "probe_trace";
    check_floating(op, "probe", probe_in);
    const Sizes sizes = sizes_of(probe_in);
    SVGDX_CHECK(sizes.size() >= 2 && sizes[0] >= 1, op,
                "probe must have shape (V, ..., D) with at least one probe, but has ", text(sizes));
    check_dtype(op, "hvp", hvp_in, probe_in.scalar_type());
    SVGDX_CHECK(hvp_in.is_cuda() == probe_in.is_cuda() && hvp_in.get_device_index() == probe_in.get_device_index(), op,
                "hvp must be on the device of probe, but is on another");
    check_shape(op, "hvp", hvp_in, sizes, "the shape of probe");
    probe = dense(probe_in);
    hvp = dense(hvp_in);
    lead = Sizes(sizes.begin() + 1, sizes.end() - 1);
    probes = sizes.front();
    points = product_of(lead);
    dim = sizes.back();
  }
};

static std::tuple<Tensor, Tensor> probe_trace_op(const Tensor& probe, const Tensor& hvp) {
  const Guard guard(probe);
  const Pair pair(probe, hvp);
  const ScalarType type = compute_type(probe.scalar_type());
  const Tensor mean = new_empty(probe, pair.lead, type), variance = new_empty(probe, pair.lead, type);
  if (pair.points == 0) return {mean, variance};
  with_storage(probe.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using C = Compute<S>;
    probe_trace<S>(
        {pair.probes, pair.points, pair.dim, data<S>(pair.probe), data<S>(pair.hvp), out<C>(mean), out<C>(variance)},
        stream(probe));
  });
  return {mean, variance};
}

static OptionalTensor upstream(const char* name, const OptionalTensor& grad, const Pair& pair, ScalarType type) {
  if (!grad) return grad;
  check_shape("probe_trace_backward", name, *grad, pair.lead, "the leading shape");
  return as_dense(grad, type);
}

static std::tuple<Tensor, Tensor> probe_trace_backward_op(const OptionalTensor& grad_mean,
                                                          const OptionalTensor& grad_variance, const Tensor& probe,
                                                          const Tensor& hvp) {
  const Guard guard(probe);
  const Pair pair(probe, hvp);
  const ScalarType type = probe.scalar_type(), sums = compute_type(type);
  const OptionalTensor of_mean = upstream("grad_mean", grad_mean, pair, sums);
  const OptionalTensor of_variance = upstream("grad_variance", grad_variance, pair, sums);
  const Tensor grad_probe = new_empty(probe, sizes_of(probe), type), grad_hvp = new_empty(probe, sizes_of(hvp), type);
  if (probe.numel() == 0) return {grad_probe, grad_hvp};
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    using C = Compute<S>;
    probe_trace_backward<S>({pair.probes, pair.points, pair.dim, data<S>(pair.probe), data<S>(pair.hvp),
                             data<C>(of_mean), data<C>(of_variance), out<S>(grad_probe), out<S>(grad_hvp)},
                            stream(probe));
  });
  return {grad_probe, grad_hvp};
}

SVGDX_OPS(m) {
  m.op("rademacher(Tensor like, SymInt seed, SymInt offset) -> Tensor", TORCH_BOX(&rademacher_op));
  m.op("rademacher.key(Tensor like, Tensor key, SymInt offset) -> Tensor", TORCH_BOX(&rademacher_key));
  m.op("probe_trace(Tensor probe, Tensor hvp) -> (Tensor, Tensor)", TORCH_BOX(&probe_trace_op));
  m.op("probe_trace_backward(Tensor? grad_mean, Tensor? grad_variance, Tensor probe, Tensor hvp) -> (Tensor, Tensor)",
       TORCH_BOX(&probe_trace_backward_op));
}

}  // namespace svgdx::SVGDX_BACKEND
