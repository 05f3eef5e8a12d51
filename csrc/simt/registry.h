// What Python can run by name: kernels with an explicit grid, and whole host launch functions.
//   SVGDX_SIMT_KERNEL("name", kernel<float, 4>)          simt.launch("name", grid, block, shared, args)
//   SVGDX_SIMT_EXPORT("name", function<float>)           simt.call("name", args...)
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
  enum Kind { kNone, kArray, kInt, kFloat, kDict } kind = kNone;
  void* data = nullptr;  // array
  std::string dtype;     // NumPy's name: float32, int64 ...; "raw" fits any pointer
  int64_t integer = 0;
  double real = 0;
  std::map<std::string, Value> dict;
};

template <class T>
const char* dtype_name() {
  using U = std::remove_cv_t<T>;
  if (std::is_same_v<U, float>) return "float32";
  if (std::is_same_v<U, double>) return "float64";
  if (std::is_same_v<U, bool>) return "bool";
  if (std::is_integral_v<U>) {
    constexpr bool is_signed = std::is_signed_v<U>;
    switch (sizeof(U)) {
      case 1:
        return is_signed ? "int8" : "uint8";
      case 2:
        return is_signed ? "int16" : "uint16";
      case 4:
        return is_signed ? "int32" : "uint32";
      default:
        return is_signed ? "int64" : "uint64";
    }
  }
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
using Call = std::function<double(const Values&)>;
using KernelCall = std::function<void(dim3 grid, dim3 block, size_t shared, const Values&)>;

std::map<std::string, Call>& exported_calls();
std::map<std::string, KernelCall>& exported_kernels();

// Device memory that only the kernels write; freed when the Python call ends.
void* device_scratch(size_t bytes, const char* name);

inline void check_count(const Values& args, size_t wanted) {
  if (args.size() == wanted) return;
  throw std::invalid_argument("expected " + std::to_string(wanted) + " arguments, but got " +
                              std::to_string(args.size()));
}

template <class R, class... P, size_t... I>
Call wrap_call(R (*function)(P...), std::index_sequence<I...>) {
  return [function](const Values& args) -> double {
    check_count(args, sizeof...(P));
    if constexpr (std::is_void_v<R>) {
      function(convert<std::decay_t<P>>(args[I])...);
      return 0;
    } else {
      return static_cast<double>(function(convert<std::decay_t<P>>(args[I])...));
    }
  };
}
template <class R, class... P>
int add_call(const char* name, R (*function)(P...)) {
  exported_calls()[name] = wrap_call(function, std::index_sequence_for<P...>());
  return 0;
}

}  // namespace simt
