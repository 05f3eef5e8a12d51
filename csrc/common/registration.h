// Registers ops with torch.
//
//   SVGDX_OPS(m) { m.op("ksd(Tensor x, ...) -> Tensor", TORCH_BOX(&ksd)); }
//     registers functions of this backend; the library for the CPU, which is always loaded, defines the schemas as
//     well.
//   SVGDX_OPS_BY(key, m)
//     the same for another dispatch key, in files that are compiled for the CPU only.
//   SVGDX_INNER_OPS, SVGDX_INNER_OPS_BY
//     the same for inner ops, whose Python side is private to one folder and prepares every argument. They have a
//     namespace of their own, SVGDX_NAMESPACE followed by _inner.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

#include "common/backend.h"

namespace svgdx {

class Registration {
 public:
  using Library = torch::stable::detail::StableLibrary;
  using Function = void (*)(StableIValue*, uint64_t, uint64_t);

  Registration(Library& library, bool defines) : library_(library), defines_(defines) {}

  void op(const char* schema, Function function) const {
    def(schema);
    const std::string text = schema;
    impl(text.substr(0, text.find('(')).c_str(), function);
  }
  // An op without a function of this backend.
  void def(const char* schema) const {
    if (defines_) library_.def(schema);
  }
  // A function of an op that is defined elsewhere.
  void impl(const char* name, Function function) const {
    if (!defines_) library_.impl(name, function);
  }

 private:
  Library& library_;
  bool defines_;
};

}  // namespace svgdx

// Macros of macros, so that the arguments are expanded before torch turns them into text.
#define SVGDX_JOIN_OF(a, b) a##b
#define SVGDX_JOIN(a, b) SVGDX_JOIN_OF(a, b)

#define SVGDX_IS_CPU_cpu 1
#if SVGDX_JOIN(SVGDX_IS_CPU_, SVGDX_BACKEND)
#define SVGDX_SCHEMAS(space, ops) \
  STABLE_TORCH_LIBRARY_FRAGMENT(space, library) { ops(::svgdx::Registration(library, true)); }
#else
#define SVGDX_SCHEMAS(space, ops)
#endif

#define SVGDX_REGISTER(space, key, ops, m)                                                       \
  static void ops(const ::svgdx::Registration& m);                                               \
  SVGDX_SCHEMAS(space, ops)                                                                      \
  STABLE_TORCH_LIBRARY_IMPL(space, key, library) { ops(::svgdx::Registration(library, false)); } \
  static void ops(const ::svgdx::Registration& m)

#define SVGDX_INNER_NAMESPACE SVGDX_JOIN(SVGDX_NAMESPACE, _inner)
#define SVGDX_OPS_BY(key, m) SVGDX_REGISTER_BY(SVGDX_NAMESPACE, key, ops_of_, m)
#define SVGDX_INNER_OPS_BY(key, m) SVGDX_REGISTER_BY(SVGDX_INNER_NAMESPACE, key, inner_ops_of_, m)
#define SVGDX_REGISTER_BY(space, key, prefix, m) SVGDX_REGISTER(space, key, SVGDX_JOIN(prefix, key), m)
#define SVGDX_OPS(m) SVGDX_OPS_BY(SVGDX_KEY, m)
#define SVGDX_INNER_OPS(m) SVGDX_INNER_OPS_BY(SVGDX_KEY, m)
