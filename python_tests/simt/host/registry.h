// The kernels and launch functions that harness.py runs by name, for the planted bugs and the harness's own tests.
//   SVGDX_SIMT_KERNEL("name", kernel<float, 4>)          simt.launch("name", grid, block, shared, args)
//   SVGDX_SIMT_EXPORT("name", function)                  simt.call("name", args...)
// Arguments are passed as Values: arrays are in the harness's device memory; pointers are checked against their type.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

struct dim3;

namespace simt {

struct Value {
  enum Kind { kNone, kArray, kInt, kFloat } kind = kNone;
  void* data = nullptr;  // array
  std::string dtype;     // NumPy's name: float32, int64 ...; "raw" fits any pointer
  int64_t integer = 0;
  double real = 0;
};

template <class T>
const char* dtype_name() {
  using U = std::remove_cv_t<T>;
  if (std::is_same_v<U, float>) return "float32";
  if (std::is_same_v<U, double>) return "float64";
  if (std::is_integral_v<U> && sizeof(U) == 4) return std::is_signed_v<U> ? "int32" : "uint32";
  return "raw";
}

template <class T>
T convert(const Value& v) {
  if constexpr (std::is_pointer_v<T>) {
    using Element = std::remove_cv_t<std::remove_pointer_t<T>>;
    if (v.kind == Value::kNone) return nullptr;
    if (v.kind != Value::kArray) throw std::invalid_argument("expected an array or None");
    if constexpr (!std::is_void_v<Element>) {
      if (v.dtype != "raw" && std::string("raw") != dtype_name<Element>() && v.dtype != dtype_name<Element>()) {
        throw std::invalid_argument("expected an array of " + std::string(dtype_name<Element>()) + ", but got " +
                                    v.dtype);
      }
    }
    return static_cast<T>(v.data);
  } else {
    static_assert(std::is_arithmetic_v<T>, "the harness passes pointers and numbers; wrap the function");
    if (v.kind == Value::kInt) return static_cast<T>(v.integer);
    if (v.kind == Value::kFloat && std::is_floating_point_v<T>) return static_cast<T>(v.real);
    throw std::invalid_argument(std::is_integral_v<T> ? "expected an integer" : "expected a number");
  }
}

using Values = std::vector<Value>;
using Call = std::function<void(const Values&)>;
using KernelCall = std::function<void(dim3 grid, dim3 block, size_t shared, const Values&)>;

std::map<std::string, Call>& exported_calls();
std::map<std::string, KernelCall>& exported_kernels();

inline void check_count(const Values& args, size_t wanted) {
  if (args.size() == wanted) return;
  throw std::invalid_argument("expected " + std::to_string(wanted) + " arguments, but got " +
                              std::to_string(args.size()));
}

template <class... P, size_t... I>
Call wrap_call(void (*function)(P...), std::index_sequence<I...>) {
  return [function](const Values& args) {
    check_count(args, sizeof...(P));
    function(convert<P>(args[I])...);
  };
}
template <class... P>
int add_call(const char* name, void (*function)(P...)) {
  exported_calls()[name] = wrap_call(function, std::index_sequence_for<P...>());
  return 0;
}

}  // namespace simt
