// Host layer of median_distance, compiled once for each backend.
#include "common/particles.h"
#include "common/registration.h"
#include "median/args.h"

namespace svgdx::SVGDX_BACKEND {

static Tensor median_distance_op(const Tensor& x) {
  const Guard guard(x);
  const Particles p("median_distance", x, x);
  SVGDX_CHECK(p.batch == 0 || p.count > 0, p.op, "x must have at least 1 particle, but has shape ", text(p.shape));
  const Tensor result = new_zeros(p.x, p.lead, p.compute);
  if (p.empty()) return p.result(result);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Tensor memory = scratch(p.x, median_distance_scratch(p.batch, p.count, p.dim));
    median_distance<T>(p.batch, p.count, p.dim, data<T>(p.x), out<T>(result), memory.mutable_data_ptr(), stream(p.x));
  });
  return p.result(result);
}

SVGDX_OPS(m) { m.op("median_distance(Tensor x) -> Tensor", TORCH_BOX(&median_distance_op)); }

}  // namespace svgdx::SVGDX_BACKEND
