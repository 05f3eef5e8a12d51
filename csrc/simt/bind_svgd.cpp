// Exports the SVGD family's launch functions to Python: "field_forward.float", "row_sum.double" ... A dict holds the
// fields of the argument struct, named as in field/args.h; missing fields are null or zero.
#include "common/row_sum.h"
#include "field/args.h"
#include "jacobian/args.h"
#include "median/args.h"
#include "simt/fields.h"

namespace svgdx {
namespace {

using simt::Value;
using simt::Values;

void set_shape(Fields& f, FieldShape& shape) {
  f.set(shape.batch, "batch");
  f.set(shape.rows, "rows");
  f.set(shape.cols, "cols");
  f.set(shape.dim, "dim");
}

template <class T>
FieldArgs<T> field_args(const Value& v) {
  Fields f(v);
  FieldArgs<T> a{};
  set_shape(f, a.shape);
  SVGDX_SET(query), SVGDX_SET(x), SVGDX_SET(score), SVGDX_SET(bandwidth), SVGDX_SET(self), SVGDX_SET(phi);
  SVGDX_SET(trace), SVGDX_SET(stein), SVGDX_SET(stein_diagonal), SVGDX_SET(step), SVGDX_SET(log_q);
  SVGDX_SET(hessian_trace);
  f.done();
  return a;
}

template <class T>
FieldGradArgs<T> field_grad_args(const Value& v) {
  Fields f(v);
  FieldGradArgs<T> a{};
  set_shape(f, a.shape);
  SVGDX_SET(particles), SVGDX_SET(self), SVGDX_SET(row_x), SVGDX_SET(row_score), SVGDX_SET(row_grad_phi);
  SVGDX_SET(row_grad_trace), SVGDX_SET(col_x), SVGDX_SET(col_score), SVGDX_SET(col_grad_phi);
  SVGDX_SET(col_grad_trace), SVGDX_SET(bandwidth), SVGDX_SET(step), SVGDX_SET(hessian_trace), SVGDX_SET(grad_x);
  SVGDX_SET(grad_score), SVGDX_SET(euler), SVGDX_SET(dot), SVGDX_SET(origin);
  f.done();
  return a;
}

template <class T>
void set_jacobian(Fields& f, JacobianArgs<T>& a) {
  SVGDX_SET(batch), SVGDX_SET(particles), SVGDX_SET(dim), SVGDX_SET(x), SVGDX_SET(score), SVGDX_SET(bandwidth);
  SVGDX_SET(probe), SVGDX_SET(hvp), SVGDX_SET(step), SVGDX_SET(hessian), SVGDX_SET(out);
}

template <class T>
JacobianArgs<T> jacobian_args(const Value& v) {
  Fields f(v);
  JacobianArgs<T> a{};
  set_jacobian(f, a);
  f.done();
  return a;
}

template <class T>
JacobianGradArgs<T> jacobian_grad_args(const Value& v) {
  Fields f(v);
  JacobianGradArgs<T> a{};
  set_jacobian(f, a.forward);
  SVGDX_SET(grad_out), SVGDX_SET(adjoint), SVGDX_SET(grad_x), SVGDX_SET(grad_score), SVGDX_SET(euler);
  SVGDX_SET(grad_probe), SVGDX_SET(grad_hvp), SVGDX_SET(grad_step), SVGDX_SET(grad_hessian);
  f.done();
  return a;
}

void* scratch(int64_t bytes) { return bytes > 0 ? simt::device_scratch(size_t(bytes), "scratch") : nullptr; }

template <class T>
void add_all(const std::string& type) {
#ifdef SVGDX_SIMT_HAVE_field_forward
  add_call("field_forward." + type, [](const Values& v) {
    const FieldArgs<T> a = field_args<T>(v.at(0));
    cuda::field_forward<T>(a, scratch(cuda::field_forward_scratch<T>(a)), nullptr);
    return 0.0;
  });
#endif
#ifdef SVGDX_SIMT_HAVE_field_backward
  add_call("field_backward." + type, [](const Values& v) {
    const FieldGradArgs<T> a = field_grad_args<T>(v.at(0));
    cuda::field_backward<T>(a, scratch(cuda::field_backward_scratch<T>(a)), nullptr);
    return 0.0;
  });
#endif
#ifdef SVGDX_SIMT_HAVE_jacobian_forward
  add_call("jacobian_forward." + type, [](const Values& v) {
    cuda::jacobian_forward<T>(jacobian_args<T>(v.at(0)), nullptr);
    return 0.0;
  });
#endif
#ifdef SVGDX_SIMT_HAVE_jacobian_backward
  add_call("jacobian_backward." + type, [](const Values& v) {
    cuda::jacobian_backward<T>(jacobian_grad_args<T>(v.at(0)), nullptr);
    return 0.0;
  });
#endif
#ifdef SVGDX_SIMT_HAVE_median_select
  // batch, particles, dim, x, out
  add_call("median_distance." + type, [](const Values& v) {
    const auto batch = simt::convert<int64_t>(v.at(0)), particles = simt::convert<int64_t>(v.at(1));
    const auto dim = simt::convert<int64_t>(v.at(2));
    cuda::median_distance<T>(batch, particles, dim, simt::convert<const T*>(v.at(3)), simt::convert<T*>(v.at(4)),
                             scratch(cuda::median_distance_scratch(batch, particles, dim)), nullptr);
    return 0.0;
  });
#endif
#ifdef SVGDX_SIMT_HAVE_common_row_sum
  // batch, n, in, scale, divisor, divisor stride, out
  add_call("row_sum." + type, [](const Values& v) {
    const PerBatch<T> divisor{simt::convert<const T*>(v.at(4)), simt::convert<int64_t>(v.at(5))};
    cuda::row_sum<T>(simt::convert<int64_t>(v.at(0)), simt::convert<int64_t>(v.at(1)), simt::convert<const T*>(v.at(2)),
                     simt::convert<T>(v.at(3)), divisor, simt::convert<T*>(v.at(6)), nullptr);
    return 0.0;
  });
#endif
}

[[maybe_unused]] const int registered = (add_all<float>("float"), add_all<double>("double"), 0);

}  // namespace
}  // namespace svgdx
