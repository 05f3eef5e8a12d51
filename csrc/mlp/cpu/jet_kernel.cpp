#include "mlp/cpu/jet_kernel.h"

#include "common/vec_math.h"
#include "common/vec_rows.h"
#include "mlp/unit.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <class C, class Access>
SVGDX_INLINE Vec<C> argument(const LayerShift<C>& shift, const C* condition, const C* product, int64_t i, Access at) {
  const Vec<C> z = at.load(product + i) + at.load(shift.bias + i);
  return condition ? z + at.load(condition + i) : z;
}

template <Activation kKind, class C>
void forward_rows(const MlpForward<C>& args) {
  const int64_t width = args.width, half = args.rows * width;
  for (int64_t r = 0; r < args.rows; ++r) {
    const C* condition = args.shift.condition_row(r, width);
    const C* product = args.product + r * width;
    C* stacked = args.stacked + r * width;
    if (args.head.weight == nullptr) {
      C *slope = args.slope + r * width, *bend = args.bend + r * width;
      for_vectors<C>(width, [&](int64_t i, auto at) {
        const Vec<C> tangent = at.load(product + half + i);
        const auto jet = activation_jet<kKind, VecMath<C>>(argument(args.shift, condition, product, i, at));
        const auto unit = hidden_unit(jet, tangent);
        at.store(stacked + i, unit.value);
        at.store(stacked + half + i, unit.tangent);
        at.store(slope + i, unit.slope);
        at.store(bend + i, unit.bend);
      });
      continue;
    }
    Vec<C> sum{};
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const Vec<C> tangent = at.load(product + half + i), weight = at.load(args.head.weight + i);
      const auto jet = activation_jet<kKind, VecMath<C>>(argument(args.shift, condition, product, i, at));
      const auto unit = head_unit(jet, tangent, weight);
      sum += unit.share;
      at.store(stacked + i, unit.grad);
      at.store(stacked + half + i, unit.grad_tangent);
    });
    args.head.value[r] = horizontal_sum<C>(sum) + args.head.bias[0];
  }
}

// One vector of a row: its activations, its sum over d of J_d^2 and its Laplacian; calls visit(d, J_d) for each d.
template <class C>
struct LaplacianVector {
  Jet<Vec<C>> jet;
  Vec<C> squares, laplacian;
};

template <Activation kKind, class C, class Access, class F>
SVGDX_INLINE LaplacianVector<C> laplacian_vector(const LaplacianLayer<C>& layer, const C* condition, int64_t r,
                                                 int64_t i, Access at, F visit) {
  const int64_t width = layer.width;
  const C* jacobian = layer.jacobian + r * layer.jacobian_stride + i;
  const C* laplacian = layer.laplacian ? layer.laplacian + r * width + i : nullptr;
  LaplacianVector<C> vector{
      activation_jet<kKind, VecMath<C>>(argument(layer.shift, condition, layer.argument + r * width, i, at)), Vec<C>{},
      laplacian ? at.load(laplacian) : Vec<C>{}};
  for (int64_t d = 0; d < layer.dim; ++d) {
    const Vec<C> slope = at.load(jacobian + d * width);
    vector.squares += slope * slope;
    visit(d, vector.jet, slope);
  }
  return vector;
}

template <Activation kKind, class C>
void laplacian_rows(const MlpLaplacian<C>& args) {
  const LaplacianLayer<C>& layer = args.layer;
  const int64_t width = layer.width, rows = layer.rows, dim = layer.dim;
  Vec<C> sums[kMaxLaplacianDim];
  for (int64_t r = 0; r < rows; ++r) {
    const C* condition = layer.shift.condition_row(r, width);
    if (args.head.weight == nullptr) {
      C *value = args.stacked + r * width, *laplacian = value + rows * width;
      C* jacobian = args.stacked + (2 * rows + r * dim) * width;
      for_vectors<C>(width, [&](int64_t i, auto at) {
        const auto unit =
            laplacian_vector<kKind>(layer, condition, r, i, at, [&](int64_t d, const Jet<Vec<C>>& jet, Vec<C> slope) {
              at.store(jacobian + d * width + i, jet.first * slope);
            });
        at.store(value + i, unit.jet.value);
        at.store(laplacian + i, unit_laplacian(unit.jet, unit.squares, unit.laplacian));
      });
      continue;
    }
    Vec<C> value{}, trace{};
    for (int64_t d = 0; d < dim; ++d) sums[d] = Vec<C>{};
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const Vec<C> weight = at.load(args.head.weight + i);
      const auto unit = laplacian_vector<kKind>(
          layer, condition, r, i, at,
          [&](int64_t d, const Jet<Vec<C>>& jet, Vec<C> slope) { sums[d] += weight * (jet.first * slope); });
      value += weight * unit.jet.value;
      trace += weight * unit_laplacian(unit.jet, unit.squares, unit.laplacian);
    });
    args.head.value[r] = horizontal_sum<C>(value) + args.head.bias[0];
    args.trace[r] = horizontal_sum<C>(trace);
    for (int64_t d = 0; d < dim; ++d) args.score[r * dim + d] = horizontal_sum<C>(sums[d]);
  }
}

template <Activation kKind, class C>
void laplacian_reverse_rows(const MlpLaplacianReverse<C>& args) {
  const LaplacianLayer<C>& layer = args.layer;
  const int64_t width = layer.width, rows = layer.rows, dim = layer.dim;
  const bool head = args.weight != nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    const C* condition = layer.shift.condition_row(r, width);
    C *value = args.grads + r * width, *laplacian = value + rows * width;
    C* jacobian = args.grads + (2 * rows + r * dim) * width;
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const Vec<C> weight = head ? at.load(args.weight + i) : Vec<C>{};
      const Vec<C> grad = head ? weight * args.upstream[r] : at.load(value + i);
      const Vec<C> grad_laplacian = head ? weight * args.upstream[rows + r] : at.load(laplacian + i);
      Vec<C> along{};
      const auto unit =
          laplacian_vector<kKind>(layer, condition, r, i, at, [&](int64_t d, const Jet<Vec<C>>& jet, Vec<C> slope) {
            C* place = jacobian + d * width + i;
            const Vec<C> above = head ? weight * args.upstream[2 * rows + r * dim + d] : at.load(place);
            along += slope * above;
            at.store(place, unit_jacobian_grad(jet, slope, above, grad_laplacian));
          });
      const auto below = unit_laplacian_grads(unit.jet, unit.squares, unit.laplacian, along, grad, grad_laplacian);
      at.store(value + i, below.argument);
      at.store(laplacian + i, below.laplacian);
    });
  }
}

}  // namespace

template <class C>
void mlp_forward(const MlpForward<C>& args) {
  with_activation(args.activation, [&](auto tag) { forward_rows<tag.kind>(args); });
}

template <class C>
void mlp_reverse(const MlpReverse<C>& args) {
  const int64_t count = args.rows * args.width;
  for_vectors<C>(count, [&](int64_t i, auto at) {
    const Vec<C> grad = at.load(args.product + i), tangent = at.load(args.product + count + i);
    const Vec<C> slope = at.load(args.slope + i), bend = at.load(args.bend + i);
    at.store(args.stacked + i, slope * grad);
    at.store(args.stacked + count + i, reverse_tangent(slope, bend, grad, tangent));
  });
}

template <class C>
void mlp_laplacian(const MlpLaplacian<C>& args) {
  with_activation(args.layer.activation, [&](auto tag) { laplacian_rows<tag.kind>(args); });
}

template <class C>
void mlp_laplacian_reverse(const MlpLaplacianReverse<C>& args) {
  with_activation(args.layer.activation, [&](auto tag) { laplacian_reverse_rows<tag.kind>(args); });
}

#define SVGDX_INSTANTIATE(C)                           \
  template void mlp_forward(const MlpForward<C>&);     \
  template void mlp_reverse(const MlpReverse<C>&);     \
  template void mlp_laplacian(const MlpLaplacian<C>&); \
  template void mlp_laplacian_reverse(const MlpLaplacianReverse<C>&);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::SVGDX_ISA
