// min(f_1, f_2) of two multilayer perceptrons of the same shape, with its gradient in x and derivatives of that
// gradient along a direction: the networks' shape and what the sweeps save, shared by both backends.
#pragma once

#include <algorithm>
#include <vector>

#include "common/tensors.h"
#include "mlp/activation.h"

namespace svgdx {

// The networks' shape. The parameters of one network are the transpose of the first layer's weight columns for x, then
// weight and bias of each later layer.
struct MinimumShape {
  int64_t rows, dim, group;     // group: the rows of x that share a shift of the first layer
  std::vector<int64_t> widths;  // D, hidden widths, 1
  Activation activation;
  std::vector<int64_t> weight, bias, before;  // offsets in the parameters; before: the hidden units of earlier layers
  int64_t parameters = 0, units = 0, widest = 0;
  int64_t block;  // rows that one thread takes at a time, on the CPU
  int64_t inner;  // the hidden units below the last hidden layer
  int64_t pitch;  // from the parameters of the first network to those of the second

  MinimumShape(int64_t rows, int64_t group, std::vector<int64_t> all, Activation activation, int64_t pitch)
      : rows(rows), dim(all[0]), group(group), widths(std::move(all)), activation(activation), pitch(pitch) {
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
      weight.push_back(parameters);
      parameters += widths[i] * widths[i + 1];
      bias.push_back(parameters);
      if (i > 0) parameters += widths[i + 1];
      before.push_back(units);
      if (i + 2 < widths.size()) units += widths[i + 1];
      widest = std::max(widest, widths[i + 1]);
    }
    inner = units - widths[widths.size() - 2];
    block = rows >= 512 ? 128 : rows >= 128 ? 64 : rows >= 64 ? 32 : 16;
  }

  int64_t layers() const { return int64_t(widths.size()) - 2; }
};

// What the sweeps save for derivatives of the score, in the layout of the backend's minimum.h.
struct MinimumKept {
  Tensor order;   // (rows) int32: at which rows the first network is the smaller
  Tensor values;  // a(z) of each hidden unit
  Tensor back;    // the gradient in a(z) of each hidden unit below the last hidden layer
};

}  // namespace svgdx
