// Exports the Hessian-trace family's launch functions to Python: "rademacher.Bf16", "mlp_forward.double" ... Fields are
// named as in probe/args.h and mlp/args.h, with those of a shift and a head alongside; 16-bit numbers are passed as
// uint16.
#include "mlp/args.h"
#include "probe/args.h"
#include "simt/fields.h"

namespace svgdx {
namespace {

using simt::Value;
using simt::Values;

template <class S>
SignArgs<S> sign_args(const Value& v) {
  Fields f(v);
  SignArgs<S> a{};
  SVGDX_SET(count), set_key(f, a.key), SVGDX_SET(out);
  f.done();
  return a;
}

template <class S>
ProbeTraceArgs<S> probe_trace_args(const Value& v) {
  Fields f(v);
  ProbeTraceArgs<S> a{};
  SVGDX_SET(probes), SVGDX_SET(points), SVGDX_SET(dim), SVGDX_SET(probe), SVGDX_SET(hvp), SVGDX_SET(mean);
  SVGDX_SET(variance);
  f.done();
  return a;
}

template <class S>
ProbeTraceGradArgs<S> probe_trace_grad_args(const Value& v) {
  Fields f(v);
  ProbeTraceGradArgs<S> a{};
  SVGDX_SET(probes), SVGDX_SET(points), SVGDX_SET(dim), SVGDX_SET(probe), SVGDX_SET(hvp), SVGDX_SET(grad_mean);
  SVGDX_SET(grad_variance), SVGDX_SET(grad_probe), SVGDX_SET(grad_hvp);
  f.done();
  return a;
}

// rows, width, activation, shift and head.
template <class Args>
void set_layer(Fields& f, Args& a) {
  int64_t activation;
  f.set(activation, "activation");
  a.activation = Activation(activation);
  SVGDX_SET(rows), SVGDX_SET(width);
  f.set(a.shift.bias, "bias"), f.set(a.shift.condition, "condition");
  f.set(a.shift.first, "first"), f.set(a.shift.group, "group");
  f.set(a.head.weight, "head_weight"), f.set(a.head.bias, "head_bias"), f.set(a.head.value, "value");
}

template <class C>
MlpForward<C> forward_args(const Value& v) {
  Fields f(v);
  MlpForward<C> a{};
  set_layer(f, a);
  SVGDX_SET(product), SVGDX_SET(stacked), SVGDX_SET(slope), SVGDX_SET(bend);
  f.done();
  return a;
}

template <class C>
MlpReverse<C> reverse_args(const Value& v) {
  Fields f(v);
  MlpReverse<C> a{};
  SVGDX_SET(rows), SVGDX_SET(width), SVGDX_SET(product), SVGDX_SET(slope), SVGDX_SET(bend), SVGDX_SET(stacked);
  f.done();
  return a;
}

template <class C>
MlpLaplacian<C> laplacian_args(const Value& v) {
  Fields f(v);
  MlpLaplacian<C> a{};
  set_layer(f, a);
  SVGDX_SET(dim), SVGDX_SET(argument), SVGDX_SET(laplacian), SVGDX_SET(jacobian), SVGDX_SET(jacobian_stride);
  SVGDX_SET(stacked), SVGDX_SET(score), SVGDX_SET(trace);
  f.done();
  return a;
}

template <class S>
void add_estimates(const std::string& type) {
  add_call("rademacher." + type, [](const Values& v) {
    cuda::rademacher<S>(sign_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("probe_trace." + type, [](const Values& v) {
    cuda::probe_trace<S>(probe_trace_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("probe_trace_backward." + type, [](const Values& v) {
    cuda::probe_trace_backward<S>(probe_trace_grad_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
}

template <class C>
void add_layers(const std::string& type) {
  add_call("mlp_forward." + type, [](const Values& v) {
    cuda::mlp_forward<C>(forward_args<C>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("mlp_reverse." + type, [](const Values& v) {
    cuda::mlp_reverse<C>(reverse_args<C>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("mlp_laplacian." + type, [](const Values& v) {
    cuda::mlp_laplacian<C>(laplacian_args<C>(v.at(0)), nullptr);
    return 0.0;
  });
}

int add_family() {
  add_estimates<float>("float");
  add_estimates<double>("double");
  add_estimates<Bf16>("Bf16");
  add_estimates<Fp16>("Fp16");
  add_layers<float>("float");
  add_layers<double>("double");
  return 0;
}

[[maybe_unused]] const int registered = add_family();

}  // namespace
}  // namespace svgdx
