#include "mlp/cpu/minimum_kernel.h"

#include "common/vec_math.h"
#include "common/vec_rows.h"
#include "mlp/curves.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <Activation kKind, bool kValue, bool kHead, class C>
void layer_rows(const MinimumLayer<C>& args) {
  // SIMD vectors may alias anything, so what the loop needs from `args` is copied; otherwise it would be reloaded after
  // each store.
  const int64_t width = args.width;
  const C* head = args.head_weight;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t row = r * width;
    const C *shift = args.shift + (args.group ? (args.first + r) / args.group * width : 0),
            *product = args.product + row;
    C* value = kValue ? args.value + row : nullptr;
    Vec<C> sum{};
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const auto jet = activation_jet<kKind, VecMath<C>>(at.load(product + i) + at.load(shift + i));
      if (kValue) at.store(value + i, jet.value);
      if (kHead) sum += jet.value * at.load(head + i);
    });
    if (kHead) args.output[r] = horizontal_sum<C>(sum) + args.head_bias[0];
  }
}

template <Activation kKind, class C>
void minimum_back_rows(const MinimumBack<C>& args) {
  const int64_t width = args.width;
  for (int64_t r = 0; r < args.rows; ++r) {
    const C *value = args.value + args.order[r] * width, *grad = args.shared ? args.grad : args.grad + r * width;
    C *to = args.out + r * width, *kept = args.kept ? args.kept + r * width : nullptr;
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const Vec<C> a = at.load(value + i);
      at.store(to + i, curves<kKind, VecMath<C>>(a).slope * at.load(grad + i));
      if (kept) at.store(kept + i, a);
    });
  }
}

template <Activation kKind, bool kTwo, class C>
void along_rows(const AlongLayer<C>& args) {
  const int64_t count = args.count;
  const C *first = args.first, *second = args.second, *value = args.value;
  C *value_first = args.value_first, *value_second = args.value_second;
  for_vectors<C>(count, [&](int64_t i, auto at) {
    const auto d = curves<kKind, VecMath<C>>(at.load(value + i));
    const Vec<C> h1 = at.load(first + i);
    at.store(value_first + i, d.slope * h1);
    if (!kTwo) return;
    const Vec<C> bent = d.second * h1 * h1;
    at.store(value_second + i, second ? bent + d.slope * at.load(second + i) : bent);
  });
}

// d/dt of a'(z) g is a'' h' g + a' g', and of that a''' h'^2 g + a'' h'' g + 2 a'' h' g' + a' g''.
template <Activation kKind, bool kTwo, class C>
void along_back_rows(const AlongBack<C>& args) {
  const int64_t width = args.width;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t row = r * width;
    const C *first = args.first + row, *value = args.value + row;
    const C* back = args.last ? args.back : args.back + row;
    const C *grad = args.last ? nullptr : args.grad_first + row, *second = args.second ? args.second + row : nullptr;
    const C* grad_second = kTwo && !args.last ? args.grad_second + row : nullptr;
    C *out_first = args.out_first + row, *out_second = kTwo ? args.out_second + row : nullptr;
    for_vectors<C>(width, [&](int64_t i, auto at) {
      const auto d = curves<kKind, VecMath<C>>(at.load(value + i));
      const Vec<C> h1 = at.load(first + i), g = at.load(back + i), g1 = grad ? at.load(grad + i) : Vec<C>{};
      const Vec<C> bend = d.second * h1;
      at.store(out_first + i, g * bend + d.slope * g1);
      if (!kTwo) return;
      const Vec<C> h2 = second ? at.load(second + i) : Vec<C>{}, g2 = grad ? at.load(grad_second + i) : Vec<C>{};
      const Vec<C> third = d.third * h1 * h1 + d.second * h2;
      at.store(out_second + i, g * third + splat<C>(2) * bend * g1 + d.slope * g2);
    });
  }
}

}  // namespace

template <class C>
void minimum_layer(const MinimumLayer<C>& args) {
  with_curves(args.activation, [&](auto tag) {
    if (!args.head_weight) return layer_rows<tag.kind, true, false>(args);
    args.value ? layer_rows<tag.kind, true, true>(args) : layer_rows<tag.kind, false, true>(args);
  });
}

template <class C>
void minimum_back(const MinimumBack<C>& args) {
  with_curves(args.activation, [&](auto tag) { minimum_back_rows<tag.kind>(args); });
}

template <class C>
void along_layer(const AlongLayer<C>& args) {
  with_curves(args.activation, [&](auto tag) {
    args.value_second ? along_rows<tag.kind, true>(args) : along_rows<tag.kind, false>(args);
  });
}

template <class C>
void along_back(const AlongBack<C>& args) {
  with_curves(args.activation, [&](auto tag) {
    args.out_second ? along_back_rows<tag.kind, true>(args) : along_back_rows<tag.kind, false>(args);
  });
}

#define SVGDX_INSTANTIATE(C)                           \
  template void minimum_layer(const MinimumLayer<C>&); \
  template void minimum_back(const MinimumBack<C>&);   \
  template void along_layer(const AlongLayer<C>&);     \
  template void along_back(const AlongBack<C>&);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::SVGDX_ISA
