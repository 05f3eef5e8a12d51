// The CPU ops behind svgdx.densities.linear.
#include <cmath>

#include "common/products.h"
#include "common/registration.h"
#include "common/storage.h"

namespace svgdx {
namespace {

// out (R, C) = f(a (R, K) times b (K, C) + bias (C)), f(v) = max(v, slope v), in blocks that depend on the shape only.
void product_into(const Tensor& a, const Tensor& b, const OptionalTensor& bias, double slope, const Tensor& out) {
  const char* op = "product";
  check_floating(op, "a", a);
  SVGDX_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0), op,
              "a and b must have shapes (R, K) and (K, C), but have ", text(sizes_of(a)), " and ", text(sizes_of(b)));
  check_dtype(op, "b", b, a.scalar_type());
  check_dtype(op, "out", out, a.scalar_type());
  check_shape(op, "out", out, {a.size(0), b.size(1)}, "shape (R, C)");
  SVGDX_CHECK(out.is_cpu() && out.is_contiguous(), op, "out must be contiguous and on the CPU");
  if (bias) {
    check_dtype(op, "bias", *bias, compute_type(a.scalar_type()));
    check_shape(op, "bias", *bias, {b.size(1)}, "shape (C,)");
    SVGDX_CHECK(bias->is_contiguous(), op, "bias must be contiguous");
  }
  const auto batched = [](const Tensor& t) { return torch::stable::unsqueeze(t, 0); };
  product_blocks(batched(a), batched(b), batched(out), false,
                 [&](const Tensor& left, const Tensor& right, const Tensor& block, int64_t col) {
                   OptionalTensor shift = bias;
                   if (bias) shift = torch::stable::narrow(*shift, 0, col, block.size(1));
                   cpu::multiply(left, right, block, shift, slope);
                 });
}

Tensor product_facts() {
  const Tensor facts = torch::stable::empty({4}, ScalarType::Double);
  const cpu::ProductRates rates = cpu::measure_products();
  double* values = out<double>(facts);
  values[0] = cpu::product_route() == cpu::ProductRoute::onednn ? 1 : 0;
  values[1] = rates.torch;
  values[2] = rates.onednn;
  values[3] = rates.exact ? 1 : 0;
  return facts;
}

SVGDX_INNER_OPS(m) {
  m.op("product(Tensor a, Tensor b, Tensor? bias, float slope, Tensor(a!) out) -> ()", TORCH_BOX(&product_into));
}

SVGDX_INNER_OPS_BY(CompositeExplicitAutograd, m) { m.op("product_facts() -> Tensor", TORCH_BOX(&product_facts)); }

}  // namespace
}  // namespace svgdx
