// A pack of a layer's units: arguments and activations.
#pragma once

#include "common/cuda/columns.cuh"
#include "mlp/args.h"
#include "mlp/cuda/math.cuh"
#include "mlp/unit.h"

namespace svgdx::cuda {

template <class C>
struct UnitJets {
  Jet<C> v[kPackWidth<C>];
};

// The jets of row r's units at the arguments `product` + bias + condition.
template <class C>
__device__ inline UnitJets<C> unit_jets(Activation activation, const C* product, const LayerShift<C>& shift,
                                        const Divider& by_group, int64_t r, const Columns<C>& at) {
  auto z = at.load(product + r * at.width);
  const auto bias = at.load(shift.bias);
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<C>; ++w) z.v[w] += bias.v[w];
  if (shift.condition != nullptr) {
    const auto condition = at.load(shift.condition + by_group.quotient(shift.first + r) * at.width);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) z.v[w] += condition.v[w];
  }
  UnitJets<C> jets;
  with_activation(activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) jets.v[w] = activation_jet<decltype(tag)::kind, CudaMath<C>>(z.v[w]);
  });
  return jets;
}

}  // namespace svgdx::cuda
