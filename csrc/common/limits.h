// How much one launch, or one block of work of the host layer, takes: more is split. Constants, except in the test
// library of python_tests/simt, which defines SVGDX_LIMIT and makes them tiny, so that tests split small work too.
#pragma once

#include <cstdint>

#ifndef SVGDX_LIMIT
#define SVGDX_LIMIT(name, value) constexpr int64_t name = value
#endif

namespace svgdx {

SVGDX_LIMIT(kMaxGrid, 0x7fffffff);  // blocks of a launch

// Numbers of the pair matrices held at one time: few enough to fit the second-level cache of large GPUs.
SVGDX_LIMIT(kPairElements, int64_t(1) << 22);
SVGDX_LIMIT(kMostCols, 8192);

SVGDX_LIMIT(kMedianBatches, 1024);  // batch entries at a time, with 16 KiB of scratch each

// Numbers of one layer of a network; all layers of a block take a few times as much memory.
SVGDX_LIMIT(kMlpNumbers, int64_t(1) << 23);

// Rows of linear_trajectory_log_prob at a time, besides the limits of device.h, and numbers of their logits' gradient.
SVGDX_LIMIT(kLinearRows, int64_t(1) << 20);
SVGDX_LIMIT(kLinearNumbers, int64_t(1) << 22);

// Elements of a batch of (M, M) matrices of the Gram route, of which the gradient holds up to 22.
SVGDX_LIMIT(kGramElements, int64_t(1) << 21);

// Products of the Jacobian matrices of sqnorm that one launch forms; more take the Gram route.
SVGDX_LIMIT(kMatrixProducts, int64_t(1) << 26);

// Numbers of the widest gradient that the backward pass of a recorded rollout holds at a time.
SVGDX_LIMIT(kRolloutNumbers, int64_t(1) << 25);

}  // namespace svgdx
