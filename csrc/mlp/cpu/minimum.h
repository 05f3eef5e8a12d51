// The sweeps through min(f_1, f_2) on the CPU. Rows are processed in blocks whose size depends on the shape only; one
// thread takes a block through all sweeps. A row is differentiated only in the network with the smaller value: within
// a block, the rows of the first network come first, and everything that the sweeps save is in that order:
//   order (rows): the row of the block stored here: r for the first network, ~r for the second,
//   values (rows, units) and back (rows, inner), each layer by layer.
#pragma once

#include "common/cpu/factor.h"
#include "common/parallel_blocks.h"
#include "mlp/cpu/minimum_kernel.h"
#include "mlp/minimum.h"

namespace svgdx::cpu {

constexpr int64_t kNetworksSaved = 1;

inline int64_t blocks_of(const MinimumShape& shape) { return (shape.rows + shape.block - 1) / shape.block; }

// The weights of both networks as the products' second factors.
template <class C>
struct MinimumWeights {
  const MinimumShape& shape;
  const C* parameters;
  std::vector<Factor<C>> weight[2], transposed[2];

  // The sweeps back from the output need the weights only if `back`.
  MinimumWeights(const MinimumShape& shape, const C* parameters, bool back) : shape(shape), parameters(parameters) {
    for (int k = 0; k < 2; ++k) {
      for (int64_t i = 0; i < shape.layers(); ++i) {
        // Stored as (D, H), because products with the transpose are slow.
        const int64_t in = shape.widths[i], width = shape.widths[i + 1];
        const Tensor stored = over(of(k) + shape.weight[i], i == 0 ? in : width, i == 0 ? width : in);
        const Tensor turned =
            torch::stable::transpose(over(of(k) + shape.weight[i], i == 0 ? in : width, i == 0 ? width : in), 0, 1);
        if (back) weight[k].emplace_back(i == 0 ? turned : stored, shape.rows);
        transposed[k].emplace_back(i == 0 ? stored : turned, shape.rows);
      }
    }
  }
  const C* of(int k) const { return parameters + k * shape.pitch; }
  const C* head(int k) const { return of(k) + shape.weight[shape.layers()]; }

  // Maps in (rows, width of layer i - 1) to out (rows, width of layer i); back() is the reverse.
  void forward(int k, int64_t i, int64_t rows, const C* in, C* out) const { transposed[k][i].multiply(rows, in, out); }
  void back(int k, int64_t i, int64_t rows, const C* in, C* out) const { weight[k][i].multiply(rows, in, out); }
};

// One number per hidden unit of each row, layer by layer: (rows, width of the first), (rows, width of the second), ...
template <class C>
struct PerUnit {
  C* memory;
  int64_t rows;
  C* at(const MinimumShape& shape, int64_t layer, int64_t row = 0) const {
    return memory ? memory + rows * shape.before[layer] + row * shape.widths[layer + 1] : nullptr;
  }
};

template <class C>
class MlpMinimum {
 public:
  // depth: 0 computes the value, 1 also its gradient, 2 also saves what derivatives of the gradient need.
  MlpMinimum(const MinimumShape& shape, const Tensor& x, const Tensor& shift, const Tensor& parameters, int64_t depth)
      : shape_(shape),
        weights_(shape, data<C>(parameters), depth > 0),
        x_(data<C>(x)),
        shift_(data<C>(shift)),
        states_(shift.size(1)),
        depth_(depth),
        value_(new_empty(x, {shape.rows}, x.scalar_type())),
        score_(new_empty(x, {depth > 0 ? shape.rows : 0, shape.dim}, x.scalar_type())),
        kept_{new_empty(x, {depth > 1 ? shape.rows : 0}, ScalarType::Int), units(x, shape.units),
              units(x, shape.inner)} {}

  void run() {
    parallel_blocks(blocks_of(shape_), [&](int64_t begin, int64_t end) {
      Memory memory(shape_, value_);
      for (int64_t i = begin; i < end; ++i) block(i, memory);
    });
  }
  const Tensor& value() const { return value_; }
  const Tensor& score() const { return score_; }
  const MinimumKept& kept() const { return kept_; }

 private:
  // The buffers of one thread.
  struct Memory {
    Tensor all;
    C *one, *other, *output;
    PerUnit<C> values[2];
    std::vector<int32_t> order;

    Memory(const MinimumShape& shape, const Tensor& like)
        : all(new_empty(like, {shape.block * (shape.widest + wide(shape) + 2 + 2 * shape.units)}, like.scalar_type())),
          order(shape.block) {
      C* next = out<C>(all);
      const auto take = [&](int64_t count) {
        C* taken = next;
        next += shape.block * count;
        return taken;
      };
      one = take(shape.widest), other = take(wide(shape)), output = take(2);
      for (PerUnit<C>& each : values) each = {take(shape.units), shape.block};
    }
    // Wide enough to hold a block's score at the end.
    static int64_t wide(const MinimumShape& shape) { return std::max(shape.widest, shape.dim); }
  };

  Tensor units(const Tensor& x, int64_t count) const {
    return new_empty(x, {depth_ > 1 ? shape_.rows : 0, count}, x.scalar_type());
  }

  void block(int64_t i, Memory& memory) const {
    const int64_t first = i * shape_.block, rows = std::min(shape_.block, shape_.rows - first);
    for (int k = 0; k < 2; ++k) forward(k, first, rows, memory);
    const C *one = memory.output, *other = memory.output + shape_.block;
    // As in torch.minimum, NaN counts as the smaller value.
    const auto is_first = [&](int64_t r) { return one[r] <= other[r] || one[r] != one[r]; };
    C* value = out<C>(value_) + first;
    for (int64_t r = 0; r < rows; ++r) value[r] = is_first(r) ? one[r] : other[r];
    if (depth_ == 0) return;
    int64_t count = 0;
    for (int64_t r = 0; r < rows; ++r) count += is_first(r);
    for (int64_t r = 0, a = 0, b = count; r < rows; ++r) memory.order[is_first(r) ? a++ : b++] = int32_t(r);
    if (depth_ > 1) {
      int32_t* order = out<int32_t>(kept_.order) + first;
      for (int64_t p = 0; p < rows; ++p) order[p] = p < count ? memory.order[p] : ~memory.order[p];
    }
    back(0, first, 0, count, memory);
    back(1, first, count, rows - count, memory);
  }

  void forward(int k, int64_t first, int64_t rows, Memory& memory) const {
    const int64_t last = shape_.layers() - 1;
    const C* in = x_ + first * shape_.dim;
    for (int64_t i = 0; i <= last; ++i) {
      const int64_t width = shape_.widths[i + 1];
      C* values = memory.values[k].at(shape_, i);
      weights_.forward(k, i, rows, in, memory.one);
      const bool from_state = i == 0, is_last = i == last;
      const MinimumLayer<C> args{rows,
                                 width,
                                 shape_.activation,
                                 memory.one,
                                 from_state ? shift_ + k * states_ * width : weights_.of(k) + shape_.bias[i],
                                 first,
                                 from_state ? shape_.group : 0,
                                 is_last && depth_ == 0 ? nullptr : values,
                                 is_last ? weights_.head(k) : nullptr,
                                 weights_.head(k) + width,
                                 memory.output + k * shape_.block};
      SVGDX_ISA_CALL(minimum_layer, args);
      in = values;
    }
  }

  void back(int k, int64_t first, int64_t skipped, int64_t rows, const Memory& memory) const {
    if (rows == 0) return;
    const PerUnit<C> values{depth_ > 1 ? out<C>(kept_.values) : nullptr, shape_.rows};
    const PerUnit<C> gradients{depth_ > 1 ? out<C>(kept_.back) : nullptr, shape_.rows};
    const int64_t last = shape_.layers() - 1, row = first + skipped;
    const C* grad = weights_.head(k);
    for (int64_t i = last; i >= 0; --i) {
      const MinimumBack<C> args{rows,
                                shape_.widths[i + 1],
                                shape_.activation,
                                memory.values[k].at(shape_, i),
                                memory.order.data() + skipped,
                                grad,
                                i == last,
                                memory.one,
                                values.at(shape_, i, row)};
      SVGDX_ISA_CALL(minimum_back, args);
      C* to = i > 0 && depth_ > 1 ? gradients.at(shape_, i - 1, row) : memory.other;
      weights_.back(k, i, rows, memory.one, to);
      grad = to;
    }
    C* score = out<C>(score_) + first * shape_.dim;
    for (int64_t p = 0; p < rows; ++p) {
      memcpy(score + memory.order[skipped + p] * shape_.dim, grad + p * shape_.dim, shape_.dim * sizeof(C));
    }
  }

  const MinimumShape& shape_;
  MinimumWeights<C> weights_;
  const C *x_, *shift_;
  int64_t states_, depth_;
  Tensor value_, score_;
  MinimumKept kept_;
};

}  // namespace svgdx::cpu
