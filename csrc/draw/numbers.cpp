// Host layer of uniform, normal and integers, compiled once for each backend.
#include "draw/numbers.h"

#include "common/key.h"
#include "common/registration.h"
#include "draw/args.h"
#include SVGDX_BACKEND_HEADER(common, device.h)

namespace svgdx::SVGDX_BACKEND {
namespace {

// Calls fill with NumberArgs for an output like `like`.
template <class F>
Tensor numbers(const char* op, const Tensor& like, const PhiloxKey& key, F fill) {
  const Guard guard(like);
  check_floating(op, "like", like);
  const Tensor out_tensor = new_empty(like, sizes_of(like), like.scalar_type());
  if (out_tensor.numel() == 0) return out_tensor;
  with_storage(like.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    fill(NumberArgs<S>{out_tensor.numel(), key, out<S>(out_tensor)}, stream(like));
  });
  return out_tensor;
}

Tensor uniform_numbers(const Tensor& like, const PhiloxKey& key) {
  return numbers("uniform", like, key, [](const auto& args, void* stream) { uniform(args, stream); });
}

Tensor normal_numbers(const Tensor& like, const PhiloxKey& key) {
  return numbers("normal", like, key, [](const auto& args, void* stream) { normal(args, stream); });
}

Tensor integer_numbers(const Tensor& like, int64_t bound, const PhiloxKey& key) {
  const Guard guard(like);
  SVGDX_CHECK(bound > 0 && bound <= kMaxBound, "integers", "bound must be from 1 to 2^32, but is ", bound);
  const Tensor out_tensor = new_empty(like, sizes_of(like), ScalarType::Long);
  if (out_tensor.numel() == 0) return out_tensor;
  integers({out_tensor.numel(), key, uint64_t(bound), out<int64_t>(out_tensor)}, stream(like));
  return out_tensor;
}

Tensor uniform_op(const Tensor& like, int64_t seed, int64_t offset) {
  return uniform_numbers(like, number_key(seed, offset));
}

Tensor uniform_key(const Tensor& like, const Tensor& key, int64_t offset) {
  return uniform_numbers(like, TensorKey("uniform", key, offset, "like", like).key);
}

Tensor normal_op(const Tensor& like, int64_t seed, int64_t offset) {
  return normal_numbers(like, number_key(seed, offset));
}

Tensor normal_key(const Tensor& like, const Tensor& key, int64_t offset) {
  return normal_numbers(like, TensorKey("normal", key, offset, "like", like).key);
}

Tensor integers_op(const Tensor& like, int64_t bound, int64_t seed, int64_t offset) {
  return integer_numbers(like, bound, number_key(seed, offset));
}

Tensor integers_key(const Tensor& like, int64_t bound, const Tensor& key, int64_t offset) {
  return integer_numbers(like, bound, TensorKey("integers", key, offset, "like", like).key);
}

}  // namespace

SVGDX_OPS(m) {
  m.op("uniform(Tensor like, SymInt seed, SymInt offset) -> Tensor", TORCH_BOX(&uniform_op));
  m.op("uniform.key(Tensor like, Tensor key, SymInt offset) -> Tensor", TORCH_BOX(&uniform_key));
  m.op("normal(Tensor like, SymInt seed, SymInt offset) -> Tensor", TORCH_BOX(&normal_op));
  m.op("normal.key(Tensor like, Tensor key, SymInt offset) -> Tensor", TORCH_BOX(&normal_key));
  m.op("integers(Tensor like, SymInt bound, SymInt seed, SymInt offset) -> Tensor", TORCH_BOX(&integers_op));
  m.op("integers.key(Tensor like, SymInt bound, Tensor key, SymInt offset) -> Tensor", TORCH_BOX(&integers_key));
}

}  // namespace svgdx::SVGDX_BACKEND
