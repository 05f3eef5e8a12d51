// Rejects bad input: every message names the op, the argument, what was expected and what was passed.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/backend.h"

namespace svgdx {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << SVGDX_TEXT(SVGDX_NAMESPACE) "::" << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

#define SVGDX_CHECK(condition, op, ...)               \
  do {                                                \
    if (!(condition)) ::svgdx::fail(op, __VA_ARGS__); \
  } while (false)

inline Sizes sizes_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return Sizes(sizes.begin(), sizes.end());
}

inline std::string text(const Sizes& sizes) {
  std::ostringstream out;
  out << "(";
  for (size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "") << sizes[i];
  out << (sizes.size() == 1 ? ",)" : ")");
  return out.str();
}

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return "another dtype";
  }
}

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

inline void check_floating(const char* op, const char* name, const Tensor& t) {
  SVGDX_CHECK(is_floating(t.scalar_type()), op, name, " must be float32, float64, float16 or bfloat16, but is ",
              name_of(t.scalar_type()));
}

inline void check_same_dtype(const char* op, const char* name, const Tensor& t, ScalarType expected) {
  SVGDX_CHECK(t.scalar_type() == expected, op, name, " must have the dtype of x, ", name_of(expected), ", but is ",
              name_of(t.scalar_type()));
}

inline void check_shape(const char* op, const char* name, const Tensor& t, const Sizes& expected, const char* meaning) {
  const Sizes sizes = sizes_of(t);
  SVGDX_CHECK(sizes == expected, op, name, " must have ", meaning, ", ", text(expected), ", but has ", text(sizes));
}

inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& x) {
  SVGDX_CHECK(t.is_cpu() == x.is_cpu() && t.is_cuda() == x.is_cuda() && t.get_device_index() == x.get_device_index(),
              op, name, " must be on the device of x (", x.is_cuda() ? "cuda" : "cpu", "), but is on ",
              t.is_cuda()  ? "cuda"
              : t.is_cpu() ? "cpu"
                           : "another device");
}

}  // namespace svgdx
