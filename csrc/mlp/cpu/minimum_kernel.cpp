// See minimum_kernel.h.
#include "mlp/cpu/minimum_kernel.h"

#include "trace/cpu/vec_math.h"
#include "trace/cpu/vec_rows.h"

namespace svgdx::SVGDX_ISA {
namespace {

// Vectors may lie over anything in memory: what the loop needs of `args` is copied, or each store would fetch it again.
template <Activation kKind, bool kSlope, bool kSecond, bool kHead, class C>
void layer_rows(const MinimumLayer<C>& args) {
  const int64_t width = args.width;
  const C* head = args.head_weight;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t row = r * width;
    const C *shift = args.shift + (args.group ? (args.first + r) / args.group * width : 0),
            *product = args.product + row;
    C *value = args.value + row, *slope = args.slope + row, *second = args.second + row;
    Vec<C> sum{};
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const auto jet = activation_jet<kKind, VecMath<C>>(at.load(product + i) + at.load(shift + i));
      if (!kHead) at.store(value + i, jet.value);
      if (kSlope) at.store(slope + i, jet.first);
      if (kSecond) at.store(second + i, jet.second);
      if (kHead) sum += jet.value * at.load(head + i);
    });
    if (kHead) args.output[r] = horizontal_sum<C>(sum) + args.head_bias[0];
  }
}

template <Activation kKind, bool kHead, class C>
void layer_of(const MinimumLayer<C>& args) {
  if (args.second) {
    layer_rows<kKind, true, true, kHead>(args);
  } else if (args.slope) {
    layer_rows<kKind, true, false, kHead>(args);
  } else {
    layer_rows<kKind, false, false, kHead>(args);
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
template <Activation kKind, bool kTwo, class C>
void back_rows(const AlongBack<C>& args) {
  const int64_t width = args.width;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t row = r * width;
    const C *first = args.first + row, *slopes = args.slope + row, *curves = args.curve + row;
    const C* back = args.last ? args.back : args.back + row;
    const C *grad = args.last ? nullptr : args.grad_first + row, *second = args.second ? args.second + row : nullptr;
    const C* grad_second = kTwo && !args.last ? args.grad_second + row : nullptr;
    C *out_first = args.out_first + row, *out_second = kTwo ? args.out_second + row : nullptr;
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const Vec<C> h1 = at.load(first + i), slope = at.load(slopes + i), curve = at.load(curves + i);
      const Vec<C> g = at.load(back + i), bend = curve * h1, g1 = grad ? at.load(grad + i) : Vec<C>{};
      at.store(out_first + i, g * bend + slope * g1);
      if (!kTwo) return;
      const Vec<C> h2 = second ? at.load(second + i) : Vec<C>{}, g2 = grad ? at.load(grad_second + i) : Vec<C>{};
      const Vec<C> third = third_derivative<kKind, C>(slope, curve) * h1 * h1 + curve * h2;
      at.store(out_second + i, g * third + splat<C>(2) * bend * g1 + slope * g2);
    });
  }
}

}  // namespace

template <class C>
void minimum_layer(const MinimumLayer<C>& args) {
  with_activation(args.activation, [&](auto tag) {
    args.head_weight ? layer_of<tag.kind, true>(args) : layer_of<tag.kind, false>(args);
  });
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
void along_layer(const AlongLayer<C>& given) {
  const AlongLayer<C> args = given;
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
  with_activation(args.activation, [&](auto tag) {
    args.out_second ? back_rows<tag.kind, true>(args) : back_rows<tag.kind, false>(args);
  });
}

#define SVGDX_INSTANTIATE(C)                                                  \
  template void minimum_layer(const MinimumLayer<C>&);                        \
  template void minimum_back(int64_t, int64_t, const C*, const C*, bool, C*); \
  template void along_layer(const AlongLayer<C>&);                            \
  template void along_back(const AlongBack<C>&);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::SVGDX_ISA
