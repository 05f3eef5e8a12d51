// Exports the GFlowNet family's launch functions to Python: "gfn_sample.Bf16", "trajectory_sum.double" ... Fields are
// named as in trajectory/args.h; 16-bit logits are passed as uint16.
#include "draw/args.h"
#include "simt/fields.h"
#include "trajectory/args.h"

namespace svgdx {
namespace {

using simt::Value;
using simt::Values;

template <class S>
void set_logits(Fields& f, const S*& logits) {
  int64_t skip;
  f.set(logits, "logits");
  f.set(skip, "logits_skip");
  logits += skip;
}

void set_shape(Fields& f, TrajectoryShape& shape) {
  f.set(shape.batch, "batch");
  f.set(shape.steps, "steps");
  f.set(shape.dim, "dim");
}

SetTimeArgs set_time_args(const Value& v) {
  Fields f(v);
  SetTimeArgs a{};
  set_shape(f, a.shape);
  SVGDX_SET(actions), SVGDX_SET(initial), SVGDX_SET(set_time);
  f.done();
  return a;
}

template <class S>
TrajectoryRows<S> rows_args(const Value& v) {
  Fields f(v);
  TrajectoryRows<S> a{};
  set_shape(f, a.shape);
  SVGDX_SET(first_row), SVGDX_SET(rows), set_logits(f, a.logits), SVGDX_SET(actions), SVGDX_SET(set_time);
  SVGDX_SET(normalizers), SVGDX_SET(row_log_prob);
  f.done();
  return a;
}

template <class S>
TrajectoryRowsGrad<S> rows_grad_args(const Value& v) {
  Fields f(v);
  TrajectoryRowsGrad<S> a{};
  set_shape(f, a.shape);
  SVGDX_SET(first_row), SVGDX_SET(rows), set_logits(f, a.logits), SVGDX_SET(actions), SVGDX_SET(set_time);
  SVGDX_SET(normalizers), SVGDX_SET(grad_log_pf), SVGDX_SET(grad_log_pb), SVGDX_SET(grad_logits);
  f.done();
  return a;
}

template <class S>
SampleArgs<S> sample_args(const Value& v) {
  Fields f(v);
  SampleArgs<S> a{};
  SVGDX_SET(batch), SVGDX_SET(dim), set_logits(f, a.logits), SVGDX_SET(state), SVGDX_SET(forward), set_key(f, a.key);
  SVGDX_SET(scale), SVGDX_SET(epsilon), SVGDX_SET(action), SVGDX_SET(log_prob);
  SVGDX_SET(next_state);
  f.done();
  return a;
}

template <class S>
NumberArgs<S> number_args(const Value& v) {
  Fields f(v);
  NumberArgs<S> a{};
  SVGDX_SET(count), set_key(f, a.key), SVGDX_SET(out);
  f.done();
  return a;
}

IntegerArgs integer_args(const Value& v) {
  Fields f(v);
  IntegerArgs a{};
  SVGDX_SET(count), set_key(f, a.key), SVGDX_SET(bound), SVGDX_SET(out);
  f.done();
  return a;
}

template <class S>
MaskedRows<S> masked_args(const Value& v) {
  Fields f(v);
  MaskedRows<S> a{};
  SVGDX_SET(rows), SVGDX_SET(width), set_logits(f, a.logits), SVGDX_SET(mask), SVGDX_SET(action),
      SVGDX_SET(normalizers);
  SVGDX_SET(row_log_prob);
  f.done();
  return a;
}

template <class S>
MaskedRowsGrad<S> masked_grad_args(const Value& v) {
  Fields f(v);
  MaskedRowsGrad<S> a{};
  SVGDX_SET(rows), SVGDX_SET(width), SVGDX_SET(segments), set_logits(f, a.logits), SVGDX_SET(mask), SVGDX_SET(action);
  SVGDX_SET(offsets), SVGDX_SET(normalizers), SVGDX_SET(grad), SVGDX_SET(grad_logits);
  f.done();
  return a;
}

template <class S>
void add_rows(const std::string& type) {
  add_call("trajectory_rows." + type, [](const Values& v) {
    cuda::trajectory_rows<S>(rows_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("trajectory_rows_backward." + type, [](const Values& v) {
    cuda::trajectory_rows_backward<S>(rows_grad_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("uniform." + type, [](const Values& v) {
    cuda::uniform<S>(number_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("normal." + type, [](const Values& v) {
    cuda::normal<S>(number_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("gfn_sample." + type, [](const Values& v) {
    cuda::gfn_sample<S>(sample_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("masked_rows." + type, [](const Values& v) {
    cuda::masked_rows<S>(masked_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("masked_rows_backward." + type, [](const Values& v) {
    cuda::masked_rows_backward<S>(masked_grad_args<S>(v.at(0)), nullptr);
    return 0.0;
  });
}

template <class C>
void add_sums(const std::string& type) {
  // batch, steps, in, log_pf, log_pb
  add_call("trajectory_sum." + type, [](const Values& v) {
    const TrajectoryShape shape{simt::convert<int64_t>(v.at(0)), simt::convert<int64_t>(v.at(1)), 0};
    cuda::trajectory_sum<C>(shape, simt::convert<const C*>(v.at(2)), simt::convert<C*>(v.at(3)),
                            simt::convert<C*>(v.at(4)), nullptr);
    return 0.0;
  });
  // segments, rows, offsets, in, out
  add_call("segment_sum." + type, [](const Values& v) {
    cuda::segment_sum<C>(simt::convert<int64_t>(v.at(0)), simt::convert<int64_t>(v.at(1)),
                         simt::convert<const int64_t*>(v.at(2)), simt::convert<const C*>(v.at(3)),
                         simt::convert<C*>(v.at(4)), nullptr);
    return 0.0;
  });
}

int add_family() {
  add_call("integers", [](const Values& v) {
    cuda::integers(integer_args(v.at(0)), nullptr);
    return 0.0;
  });
  add_call("trajectory_set_times", [](const Values& v) {
    cuda::trajectory_set_times(set_time_args(v.at(0)), nullptr);
    return 0.0;
  });
  add_rows<float>("float");
  add_rows<double>("double");
  add_rows<Bf16>("Bf16");
  add_rows<Fp16>("Fp16");
  add_sums<float>("float");
  add_sums<double>("double");
  return 0;
}

[[maybe_unused]] const int registered = add_family();

}  // namespace
}  // namespace svgdx
