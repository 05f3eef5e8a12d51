// Dispatches on a tensor's storage type, with small related checks.
#pragma once

#include "common/half.h"
#include "common/tensors.h"

namespace svgdx {

// Calls f with a value of the storage type.
template <class F>
void with_storage(ScalarType type, F f) {
  switch (type) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Float:
      return f(float{});
    case ScalarType::BFloat16:
      return f(Bf16{});
    default:
      return f(Fp16{});
  }
}

inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType expected) {
  SVGDX_CHECK(t.scalar_type() == expected, op, name, " must be ", name_of(expected), ", but is ",
              name_of(t.scalar_type()));
}

inline int64_t product_of(const Sizes& sizes) {
  int64_t n = 1;
  for (const int64_t size : sizes) n *= size;
  return n;
}

inline Sizes joined(Sizes lead, const Sizes& rest) {
  lead.insert(lead.end(), rest.begin(), rest.end());
  return lead;
}

}  // namespace svgdx
