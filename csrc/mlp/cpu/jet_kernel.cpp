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

// One vector of a row: passes h, its Laplacian and its Jacobian to put(row of D + 2, value).
template <Activation kKind, class C, class Access, class Put>
SVGDX_INLINE void laplacian_vector(const MlpLaplacian<C>& args, const C* condition, int64_t r, int64_t i, Access at,
                                   Put put) {
  const int64_t width = args.width;
  const C* jacobian = args.jacobian + r * args.jacobian_stride + i;
  const auto jet = activation_jet<kKind, VecMath<C>>(argument(args.shift, condition, args.argument + r * width, i, at));
  Vec<C> squares{};
  for (int64_t d = 0; d < args.dim; ++d) {
    const Vec<C> slope = at.load(jacobian + d * width);
    squares += slope * slope;
    put(d + 2, jet.first * slope);
  }
  put(0, jet.value);
  put(1, unit_laplacian(jet, squares, args.laplacian ? at.load(args.laplacian + r * width + i) : Vec<C>{}));
}

template <Activation kKind, class C>
void laplacian_rows(const MlpLaplacian<C>& args) {
  const int64_t width = args.width, rows = args.rows, dim = args.dim;
  Vec<C> sums[kMaxLaplacianDim + 2];
  for (int64_t r = 0; r < rows; ++r) {
    const C* condition = args.shift.condition_row(r, width);
    if (args.head.weight == nullptr) {
      C* to[2] = {args.stacked + r * width, args.stacked + (rows + r) * width};
      C* jacobian = args.stacked + (2 * rows + r * dim) * width;
      for_vectors<C>(width, [&](int64_t i, auto at) {
        laplacian_vector<kKind>(args, condition, r, i, at, [&](int64_t k, Vec<C> v) {
          at.store((k < 2 ? to[k] : jacobian + (k - 2) * width) + i, v);
        });
      });
      continue;
    }
    for (int64_t k = 0; k < dim + 2; ++k) sums[k] = Vec<C>{};
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const Vec<C> weight = at.load(args.head.weight + i);
      laplacian_vector<kKind>(args, condition, r, i, at, [&](int64_t k, Vec<C> v) { sums[k] += weight * v; });
    });
    args.head.value[r] = horizontal_sum<C>(sums[0]) + args.head.bias[0];
    args.trace[r] = horizontal_sum<C>(sums[1]);
    for (int64_t d = 0; d < dim; ++d) args.score[r * dim + d] = horizontal_sum<C>(sums[d + 2]);
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
  with_activation(args.activation, [&](auto tag) { laplacian_rows<tag.kind>(args); });
}

#define SVGDX_INSTANTIATE(C)                       \
  template void mlp_forward(const MlpForward<C>&); \
  template void mlp_reverse(const MlpReverse<C>&); \
  template void mlp_laplacian(const MlpLaplacian<C>&);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::SVGDX_ISA
