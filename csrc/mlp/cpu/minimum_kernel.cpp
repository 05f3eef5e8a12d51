// See minimum_kernel.h.
#include "mlp/cpu/minimum_kernel.h"

#include "trace/cpu/vec_math.h"
#include "trace/cpu/vec_rows.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <Activation kKind, class C>
void layer_rows(const MinimumLayer<C>& args) {
  const int64_t width = args.width;
  for (int64_t r = 0; r < args.rows; ++r) {
    const C* shift = args.shift + (args.group ? (args.first + r) / args.group * width : 0);
    const int64_t row = r * width;
    Vec<C> sum{};
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const auto jet = activation_jet<kKind, VecMath<C>>(at.load(args.product + row + i) + at.load(shift + i));
      if (args.value) at.store(args.value + row + i, jet.value);
      if (args.slope) at.store(args.slope + row + i, jet.first);
      if (args.second) at.store(args.second + row + i, jet.second);
      if (args.head_weight) sum += jet.value * at.load(args.head_weight + i);
    });
    if (args.head_weight) args.output[r] = horizontal_sum<C>(sum) + args.head_bias[0];
  }
}

// The third derivative, which the first two tell for these activations.
template <Activation kKind, class C>
SVGDX_INLINE Vec<C> third_derivative(Vec<C> slope, Vec<C> second) {
  if constexpr (kKind == Activation::elu) {
    return second;
  } else if constexpr (kKind == Activation::softplus) {
    return second * (splat<C>(1) - slope - slope);
  } else if constexpr (kKind == Activation::tanh) {
    return splat<C>(2) * slope * (splat<C>(2) - splat<C>(3) * slope);
  } else {
    return Vec<C>{};
  }
}

// d/dt of a'(z) g is a'' h' g + a' g', and of that a''' h'^2 g + a'' h'' g + 2 a'' h' g' + a' g''.
template <Activation kKind, class C>
void back_rows(const AlongBack<C>& args) {
  const int64_t width = args.width;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t row = r * width;
    const C* back = args.last ? args.back : args.back + row;
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const int64_t k = row + i;
      const Vec<C> h1 = at.load(args.first + k), slope = at.load(args.slope + k), curve = at.load(args.curve + k);
      const Vec<C> g = at.load(back + i), bend = curve * h1;
      const Vec<C> g1 = args.last ? Vec<C>{} : at.load(args.grad_first + k);
      at.store(args.out_first + k, g * bend + slope * g1);
      if (!args.out_second) return;
      const Vec<C> h2 = args.second ? at.load(args.second + k) : Vec<C>{};
      const Vec<C> g2 = args.last ? Vec<C>{} : at.load(args.grad_second + k);
      const Vec<C> third = third_derivative<kKind, C>(slope, curve) * h1 * h1 + curve * h2;
      at.store(args.out_second + k, g * third + splat<C>(2) * bend * g1 + slope * g2);
    });
  }
}

}  // namespace

template <class C>
void minimum_layer(const MinimumLayer<C>& args) {
  with_activation(args.activation, [&](auto tag) { layer_rows<tag.kind>(args); });
}

template <class C>
void minimum_back(int64_t rows, int64_t width, const C* slope, const C* grad, bool shared, C* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const C* row = shared ? grad : grad + r * width;
    for_vectors<C>(width, [&](int64_t i, auto at) {
      at.store(out + r * width + i, at.load(slope + r * width + i) * at.load(row + i));
    });
  }
}

template <class C>
void along_layer(const AlongLayer<C>& args) {
  for_vectors<C>(args.count, [&](int64_t i, auto at) {
    const Vec<C> h1 = at.load(args.first + i), slope = at.load(args.slope + i);
    at.store(args.value_first + i, slope * h1);
    if (!args.value_second) return;
    const Vec<C> bent = at.load(args.curve + i) * h1 * h1;
    at.store(args.value_second + i, args.second ? bent + slope * at.load(args.second + i) : bent);
  });
}

template <class C>
void along_back(const AlongBack<C>& args) {
  with_activation(args.activation, [&](auto tag) { back_rows<tag.kind>(args); });
}

#define SVGDX_INSTANTIATE(C)                                                  \
  template void minimum_layer(const MinimumLayer<C>&);                        \
  template void minimum_back(int64_t, int64_t, const C*, const C*, bool, C*); \
  template void along_layer(const AlongLayer<C>&);                            \
  template void along_back(const AlongBack<C>&);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::SVGDX_ISA
