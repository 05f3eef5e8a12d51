// Medium dimensions if the rows are not the particles: one register-tiled product gives a tile of kernel values, a
// second one the sums over columns. The algebra is in pack.h. Work items are (batch row, chunk of rows); a row visits
// the column blocks in the same order whatever its chunk, so the result does not depend on the number of threads.
#include <algorithm>
#include <vector>

#include "common/cpu/parallel_for.h"
#include "field/cpu/expanded.h"
#include "field/cpu/kernels.h"
#include "field/cpu/tile.h"

namespace svgdx::SVGDX_ISA {
namespace {

constexpr int64_t kSmallChunk = 24;  // rows per work item if there are few
constexpr int64_t kManyItems = 16;

template <class T>
PackSource<T> slice(const PackSource<T>& s, int64_t b, int64_t count, int64_t dim) {
  auto at = [](const T* p, int64_t offset) { return p ? p + offset : nullptr; };
  return {at(s.x, b * count * dim), at(s.score, b * count * dim), at(s.grad_phi, b * count * dim),
          at(s.grad_trace, b * count)};
}

// The packed rows and columns of all batch rows that are computed in C.
template <class T, class C>
class Packs {
 public:
  Packs(const FieldShape& shape, bool gradients, int64_t first, int64_t batches, const PerBatch<T>& bandwidth,
        const double* centres)
      : shape_(shape),
        first_(first),
        batches_(batches),
        bandwidth_(bandwidth),
        centres_(centres),
        col_layout_(shape.cols, shape.dim, gradients),
        row_layout_(shape.rows, shape.dim, gradients),
        storage_(batches * (col_layout_.total() + row_layout_.total())) {}

  void fill(const PackSource<T>& cols, const PackSource<T>& rows, C h_sign) {
    const int64_t col_blocks = col_layout_.blocks, blocks = col_blocks + row_layout_.blocks;
    cpu::parallel_for(0, batches_ * blocks, 4, [&](int64_t begin, int64_t end) {
      std::vector<C> centre(shape_.dim);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t k = item / blocks, block = item % blocks, b = first_ + k;
        for (int64_t d = 0; d < shape_.dim; ++d) centre[d] = C(centres_[b * shape_.dim + d]);
        const C beta = beta_of<T, C>(bandwidth_, b);
        if (block < col_blocks) {
          pack_block<T, C>(col_layout_, col(k), slice(cols, b, shape_.cols, shape_.dim), centre.data(), beta, h_sign,
                           block);
        } else {
          pack_block<T, C>(row_layout_, row(k), slice(rows, b, shape_.rows, shape_.dim), centre.data(), beta, h_sign,
                           block - col_blocks);
        }
      }
    });
  }

  Pack<C> col(int64_t k) const { return Pack<C>(col_layout_, storage_.get() + k * col_layout_.total()); }
  Pack<C> row(int64_t k) const {
    const int64_t cols = batches_ * col_layout_.total();
    return Pack<C>(row_layout_, storage_.get() + cols + k * row_layout_.total());
  }
  const PackLayout<C>& layout() const { return col_layout_; }
  int64_t batch(int64_t k) const { return first_ + k; }
  int64_t size() const { return batches_; }
  const FieldShape& shape() const { return shape_; }

 private:
  FieldShape shape_;
  int64_t first_, batches_;
  PerBatch<T> bandwidth_;
  const double* centres_;
  PackLayout<C> col_layout_, row_layout_;
  Buffer<C> storage_;
};

// A row's sums, each held as a vector of partial sums.
template <class C, int N>
struct RowVectors {
  Vec<C> part[N];
  C total(int n) const { return horizontal_sum<C>(part[n]); }
};

template <class C>
SVGDX_INLINE void start_log2_kappa(Accumulators<C>& acc, const C* row_n, const C* col_n) {
#pragma GCC unroll 4
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) acc[r][v] = -row_n[r] - load(col_n + v * kLanes<C>);
  }
}

template <class C>
struct ForwardTile {
  static constexpr int kSums = 3;  // kappa, kappa w, kappa log2 kappa
  static constexpr int kOutputs = 1;
  alignas(64) C kappa[kTile];

  void run(const PackLayout<C>& l, const Pack<C>& rows, const Pack<C>& cols, int64_t row, int64_t block,
           RowVectors<C, kSums>* sums, C* out) {
    const C* row_t = rows.xt + row / kBlock * kBlock * l.dim + row % kBlock;
    for (int64_t s = 0; s < kBlock; s += kStrip<C>) {
      const int64_t column = block * kBlock + s;
      Accumulators<C> acc;
      start_log2_kappa<C>(acc, rows.n + row, cols.n + column);
      add_dots<C>(acc, row_t, cols.xt + block * kBlock * l.dim + s, l.dim);
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < kTileVectors; ++v) {
          const Vec<C> value = exp2_nonpositive<C>(acc[r][v]);
          store(kappa + r * kBlock + s + v * kLanes<C>, value);
          sums[r].part[0] += value;
          sums[r].part[1] += value * load(cols.w + column + v * kLanes<C>);
          sums[r].part[2] += value * acc[r][v];
        }
      }
    }
    add_product<C>(kappa, cols.c + block * kBlock * l.width, l.width, out, l.width);
  }
};

template <class C>
struct BackwardTile {
  static constexpr int kSums = 5;     // kappa, kappa w, kappa log2 kappa, kappa H, kappa weight
  static constexpr int kOutputs = 3;  // sums of kappa C, kappa q, kappa weight x
  alignas(64) C kappa[kTile], weighted[kTile];

  void run(const PackLayout<C>& l, const Pack<C>& rows, const Pack<C>& cols, int64_t row, int64_t block,
           RowVectors<C, kSums>* sums, C* out) {
    const int64_t row_at = row / kBlock * kBlock * l.dim + row % kBlock, col_at = block * kBlock * l.dim;
    for (int64_t s = 0; s < kBlock; s += kStrip<C>) {
      const int64_t column = block * kBlock + s;
      Accumulators<C> acc;
      start_log2_kappa<C>(acc, rows.n + row, cols.n + column);
      add_dots<C>(acc, rows.xt + row_at, cols.xt + col_at + s, l.dim);
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < kTileVectors; ++v) {
          const int64_t at = column + v * kLanes<C>;
          const Vec<C> value = exp2_nonpositive<C>(acc[r][v]), log_kappa = acc[r][v] * C(kLn2);
          store(kappa + r * kBlock + s + v * kLanes<C>, value);
          sums[r].part[0] += value;
          sums[r].part[1] += value * load(cols.w + at);
          sums[r].part[2] += value * acc[r][v];
          sums[r].part[3] += value * load(cols.hb + at);
          acc[r][v] = rows.delta[row + r] + load(cols.delta + at) + rows.hb[row + r] * (load(cols.w + at) + log_kappa) +
                      load(cols.hb + at) * (rows.w[row + r] + log_kappa);
        }
      }
      add_dots<C>(acc, rows.qt + row_at, cols.ct + col_at + s, l.dim);
      add_dots<C>(acc, rows.ct + row_at, cols.qt + col_at + s, l.dim);
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < kTileVectors; ++v) {
          const int64_t at = r * kBlock + s + v * kLanes<C>;
          const Vec<C> value = acc[r][v] * load(kappa + at);
          store(weighted + at, value);
          sums[r].part[4] += value;
        }
      }
    }
    const int64_t matrix = block * kBlock * l.width, stride = kOutputs * l.width;
    add_product<C>(kappa, cols.c + matrix, l.width, out, stride);
    add_product<C>(kappa, cols.q + matrix, l.width, out + l.width, stride);
    add_product<C>(weighted, cols.x + matrix, l.width, out + 2 * l.width, stride);
  }
};

template <class Tile, class T, class C, class Finish>
void run_tiles(const Packs<T, C>& packs, const Finish& finish) {
  const int64_t rows = packs.shape().rows;
  const int64_t chunk = packs.size() * blocks_of(rows) >= kManyItems ? kBlock : kSmallChunk;
  const int64_t chunks = (rows + chunk - 1) / chunk;
  const PackLayout<C>& l = packs.layout();
  const int64_t stride = Tile::kOutputs * l.width;
  cpu::parallel_for(0, packs.size() * chunks, 1, [&](int64_t begin, int64_t end) {
    Tile tile;
    Buffer<C> out(chunk * stride);
    Buffer<RowVectors<C, Tile::kSums>> sums(chunk);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t k = item / chunks, first = item % chunks * chunk, count = std::min(chunk, rows - first);
      const Pack<C> col = packs.col(k), row = packs.row(k);
      std::fill_n(out.get(), chunk * stride, C(0));
      for (int64_t r = 0; r < chunk; ++r) {
        for (Vec<C>& part : sums.get()[r].part) part = Vec<C>{};
      }
      for (int64_t block = 0; block < l.blocks; ++block) {
        for (int64_t r = 0; r < count; r += kTileRows) {
          tile.run(l, row, col, first + r, block, sums.get() + r, out.get() + r * stride);
        }
      }
      for (int64_t r = 0; r < count; ++r) finish(k, first + r, sums.get()[r], out.get() + r * stride);
    }
  });
}

template <class T, class C>
void forward_in(const FieldArgs<T>& a, int64_t first, int64_t batches, const double* centres) {
  Packs<T, C> packs(a.shape, false, first, batches, a.bandwidth, centres);
  packs.fill({a.x, a.score, nullptr, nullptr}, {a.query, nullptr, nullptr, nullptr}, C(0));
  const int64_t dim = a.shape.dim;
  run_tiles<ForwardTile<C>>(packs, [&](int64_t k, int64_t i, const RowVectors<C, 3>& sums, C* out) {
    const int64_t b = packs.batch(k);
    const C beta = beta_of<T, C>(a.bandwidth, b), kappa = sums.total(0);
    C x_c = 0, norm = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const C x = C(a.query[(b * a.shape.rows + i) * dim + d]) - C(centres[b * dim + d]);
      x_c += x * out[d];
      norm += x * x;
      out[d] += beta * x * kappa;
    }
    const C trace = (C(dim) - C(0.5) * beta * norm) * kappa - x_c + sums.total(1) + C(kLn2) * sums.total(2);
    finish_forward<T, C>(a, b, i, beta, out, 1, trace);
  });
}

template <class T, class C>
void backward_in(const FieldGradArgs<T>& a, int64_t first, int64_t batches, const double* centres) {
  Packs<T, C> packs(a.shape, true, first, batches, a.bandwidth, centres);
  packs.fill({a.col_x, a.col_score, a.col_grad_phi, a.col_grad_trace},
             {a.row_x, a.row_score, a.row_grad_phi, a.row_grad_trace}, C(trace_sign(a)));
  const int64_t width = packs.layout().width;
  run_tiles<BackwardTile<C>>(packs, [&](int64_t k, int64_t i, const RowVectors<C, 5>& sums, C* out) {
    const int64_t b = packs.batch(k);
    const Pack<C> rows = packs.row(k);
    const ExpandedRow<C> row{rows.x + i * width, rows.c + i * width, rows.q + i * width, rows.n[i],
                             rows.w[i],          rows.hb[i],         rows.delta[i]};
    finish_backward_row<T, C>(a, b, i, beta_of<T, C>(a.bandwidth, b), row,
                              {sums.total(0), sums.total(1), sums.total(2)}, {sums.total(3), sums.total(4)}, out,
                              out + width, out + 2 * width);
  });
}

}  // namespace

template <class T>
void field_forward_tiled(const FieldArgs<T>& a) {
  by_spread(a, [&](int64_t b, int64_t n, const double* centres, auto zero) {
    forward_in<T, decltype(zero)>(a, b, n, centres);
  });
}

template <class T>
void field_backward_tiled(const FieldGradArgs<T>& a) {
  by_spread(a, [&](int64_t b, int64_t n, const double* centres, auto zero) {
    backward_in<T, decltype(zero)>(a, b, n, centres);
  });
}

template void field_forward_tiled(const FieldArgs<float>&);
template void field_forward_tiled(const FieldArgs<double>&);
template void field_backward_tiled(const FieldGradArgs<float>&);
template void field_backward_tiled(const FieldGradArgs<double>&);

}  // namespace svgdx::SVGDX_ISA
