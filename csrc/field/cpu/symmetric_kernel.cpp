// Medium dimensions if the rows are the particles: kappa and the weights are symmetric, so that each pair of blocks is
// evaluated once for both. Blocks meet in rounds, in each of which a block has one partner, so that the order of a
// row's additions does not depend on the number of threads. The algebra is that of pack.h.
#include <algorithm>
#include <deque>
#include <type_traits>
#include <vector>

#include "common/cpu/parallel_for.h"
#include "field/cpu/kernels.h"
#include "field/cpu/pair_block.h"
#include "field/cpu/tile.h"

namespace svgdx::SVGDX_ISA {
namespace {

// Rounds that one call has at most, about: more blocks are joined to groups.
constexpr int64_t kRounds = 40;
// From this many problems on, each is computed by one thread.
constexpr int64_t kManyProblems = 16;

// The values of all pairs of two blocks with their sums: over the columns for each row, over the rows for each column.
template <class T, class C, bool kGradients>
struct PairTile {
  // kappa, kappa w, kappa log2 kappa; kappa H, kappa weight.
  static constexpr int kSums = kGradients ? 5 : 3;
  alignas(64) C kappa[kPairBlock * kPairBlock], weighted[kGradients ? kPairBlock * kPairBlock : 1];
  alignas(64) C col_sums[kSums][kPairBlock];
  Vec<C> row_sums[kPairBlock][kSums];

  template <bool kDiagonal>
  void evaluate(const PairBlock<T, C>& rows, const PairBlock<T, C>& cols, const PairScalars<C>& s, C beta) {
    std::fill_n(col_sums[0], kSums * kPairBlock, C(0));
    for (auto& row : row_sums) std::fill_n(row, kSums, Vec<C>{});
    for (int64_t r = 0; r < rows.count; r += kTileRows) {
      for (int64_t c = 0; c < cols.count; c += kStrip<C>) strip<kDiagonal>(rows, cols, s, beta, r, c);
    }
  }

 private:
  template <bool kDiagonal>
  SVGDX_INLINE void strip(const PairBlock<T, C>& rows, const PairBlock<T, C>& cols, const PairScalars<C>& s, C beta,
                          int64_t first, int64_t c) {
    const int64_t dim = rows.dim(), row = rows.first + first, col = cols.first + c;
    const C scale = beta * C(pair::kLog2E);
    Accumulators<C> acc = {};
    add_dots<C, kPairBlock>(acc, rows.x_t() + first, cols.x_t() + c, dim);
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      Vec<C>* const sums = row_sums[first + r];
      const C n_i = s.n[row + r], w_i = s.w[row + r];
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t lane = c + v * kLanes<C>, j = col + v * kLanes<C>;
        const Vec<C> w_j = load(s.w + j), log_kappa = acc[r][v] * scale - (n_i + load(s.n + j));
        Vec<C> value = exp2_nonpositive<C>(log_kappa);
        if (kDiagonal && uint64_t(first + r - lane) < uint64_t(kLanes<C>)) value[first + r - lane] = C(0);
        store(kappa + (first + r) * kPairBlock + lane, value);
        add(0, value, value, sums, lane);
        add(1, value * w_j, value * w_i, sums, lane);
        add(2, value * log_kappa, value * log_kappa, sums, lane);
        if (kGradients) {
          const C hb_i = s.hb[row + r];
          const Vec<C> hb_j = load(s.hb + j), ln_kappa = log_kappa * C(kLn2);
          add(kSums - 2, value * hb_j, value * hb_i, sums, lane);
          acc[r][v] = s.delta[row + r] + load(s.delta + j) + hb_i * (w_j + ln_kappa) + hb_j * (w_i + ln_kappa);
        }
      }
    }
    if (!kGradients) return;
    add_dots<C, kPairBlock>(acc, rows.q_t() + first, cols.c_t() + c, dim);
    add_dots<C, kPairBlock>(acc, rows.c_t() + first, cols.q_t() + c, dim);
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t lane = c + v * kLanes<C>, at = (first + r) * kPairBlock + lane;
        const Vec<C> value = acc[r][v] * load(kappa + at);
        store(weighted + at, value);
        add(kSums - 1, value, value, row_sums[first + r], lane);
      }
    }
  }

  SVGDX_INLINE void add(int sum, Vec<C> to_row, Vec<C> to_cols, Vec<C>* row, int64_t lane) {
    row[sum] += to_row;
    store(&col_sums[sum][lane], load(&col_sums[sum][lane]) + to_cols);
  }
};

// One batch row: the sums of all its rows, from which `finish` completes the results.
template <class T, class C, bool kGradients>
class SymmetricProblem {
 public:
  using Tile = PairTile<T, C, kGradients>;
  static constexpr int kOutputs = kGradients ? 3 : 1;  // sums of kappa C, kappa q, kappa weight x

  // `sums`: memory for the sums over particles if these have the layout of the results, else null.
  SymmetricProblem(int64_t count, int64_t dim, const PairSource<T>& source, const double* centre, C beta, C h_sign,
                   C* results)
      : count_(count),
        dim_(dim),
        source_(source),
        centre_(centre, centre + dim),
        beta_(beta),
        h_sign_(h_sign),
        blocks_((count + kPairBlock - 1) / kPairBlock),
        padded_(blocks_ * kPairBlock),
        stride_(PairBlock<T, C>(dim, false).stride()),
        scalars_(padded_ * (kGradients ? 4 : 2)),
        sums_(padded_ * Tile::kSums),
        memory_(results && stride_ == dim ? 0 : count * kOutputs * stride_),
        out_(results && stride_ == dim ? results : memory_.get()) {}

  // Calls finish(i, row, sums, out) for every row i.
  template <class Finish>
  void run(const Finish& finish) {
    prepare();
    const int64_t group = std::max<int64_t>(1, (blocks_ + kRounds - 1) / kRounds),
                  groups = (blocks_ + group - 1) / group;
    const int64_t players = groups + groups % 2;
    cpu::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      Workspace work(dim_, group);
      for (int64_t i = begin; i < end; ++i) meet(i, i, group, &work);
    });
    for (int64_t round = 0; round + 1 < players; ++round) {
      cpu::parallel_for(0, players / 2, 1, [&](int64_t begin, int64_t end) {
        Workspace work(dim_, group);
        for (int64_t k = begin; k < end; ++k) {
          // The circle method: the last player stays, the others move on.
          const int64_t one = (round + k) % (players - 1);
          const int64_t other = k == 0 ? players - 1 : (round - k + players - 1) % (players - 1);
          if (one < groups && other < groups) meet(std::min(one, other), std::max(one, other), group, &work);
        }
      });
    }
    each_block([&](const PairBlock<T, C>& block) {
      for (int64_t lane = 0; lane < block.count; ++lane) {
        const int64_t i = block.first + lane;
        C sums[Tile::kSums];
        for (int k = 0; k < Tile::kSums; ++k) sums[k] = sums_.get()[k * padded_ + i];
        finish(i, block.row(lane, scalars()), sums, out_ + i * kOutputs * stride_, stride_);
      }
    });
  }

 private:
  struct Workspace {
    std::deque<PairBlock<T, C>> rows;
    PairBlock<T, C> cols;
    Tile tile;
    Workspace(int64_t dim, int64_t group) : cols(dim, kGradients) {
      for (int64_t k = 0; k < group; ++k) rows.emplace_back(dim, kGradients);
    }
  };

  PairScalars<C> scalars() const {
    C* const first = scalars_.get();
    return {first, first + padded_, kGradients ? first + 2 * padded_ : nullptr,
            kGradients ? first + 3 * padded_ : nullptr};
  }

  void read(int64_t block, PairBlock<T, C>* into) const {
    const int64_t first = block * kPairBlock;
    into->read_rows(source_, first, std::min(kPairBlock, count_ - first), centre_.data(), beta_, h_sign_);
  }

  template <class F>
  void each_block(const F& f) const {
    cpu::parallel_for(0, blocks_, 4, [&](int64_t begin, int64_t end) {
      PairBlock<T, C> block(dim_, kGradients);
      for (int64_t k = begin; k < end; ++k) {
        read(k, &block);
        f(block);
      }
    });
  }

  void prepare() {
    std::fill_n(scalars_.get(), padded_ * (kGradients ? 4 : 2), C(0));
    std::fill_n(sums_.get(), padded_ * Tile::kSums, C(0));
    std::fill_n(out_, count_ * kOutputs * stride_, C(0));
    std::fill(scalars().n + count_, scalars().n + padded_, C(kFarSmall));
    each_block([&](const PairBlock<T, C>& block) { block.write_scalars(source_, beta_, h_sign_, scalars()); });
  }

  // All pairs of a group of rows and one of columns.
  void meet(int64_t row_group, int64_t col_group, int64_t group, Workspace* work) {
    const int64_t first = row_group * group, last = std::min(first + group, blocks_);
    for (int64_t k = first; k < last; ++k) {
      read(k, &work->rows[k - first]);
      work->rows[k - first].transpose();
    }
    if (row_group == col_group) {
      for (int64_t k = 0; k < last - first; ++k) {
        for (int64_t l = 0; l < k; ++l) pairs<false>(work->rows[l], work->rows[k], &work->tile);
        pairs<true>(work->rows[k], work->rows[k], &work->tile);
      }
      return;
    }
    for (int64_t l = col_group * group; l < std::min((col_group + 1) * group, blocks_); ++l) {
      read(l, &work->cols);
      work->cols.transpose();
      for (int64_t k = 0; k < last - first; ++k) pairs<false>(work->rows[k], work->cols, &work->tile);
    }
  }

  template <bool kDiagonal>
  void pairs(const PairBlock<T, C>& rows, const PairBlock<T, C>& cols, Tile* tile) {
    tile->template evaluate<kDiagonal>(rows, cols, scalars(), beta_);
    for (int k = 0; k < Tile::kSums; ++k) {
      C* const sums = sums_.get() + k * padded_;
      for (int64_t r = 0; r < rows.count; ++r) sums[rows.first + r] += lane_sum<C>(tile->row_sums[r][k]);
      for (int64_t c = 0; c < cols.count && !kDiagonal; ++c) sums[cols.first + c] += tile->col_sums[k][c];
    }
    products(rows, cols, {tile->kappa, kPairBlock, 1}, {tile->weighted, kPairBlock, 1});
    if (!kDiagonal) products(cols, rows, {tile->kappa, 1, kPairBlock}, {tile->weighted, 1, kPairBlock});
  }

  void products(const PairBlock<T, C>& rows, const PairBlock<T, C>& cols, LeftFactor<C> kappa, LeftFactor<C> weighted) {
    const int64_t width = rows.width(), line = kOutputs * stride_;
    C* const out = out_ + rows.first * line;
    const auto add = [&](int64_t columns, LeftFactor<C> left, const C* right, int64_t right_stride, C* sum) {
      small_product<C>(rows.count, cols.count, columns, left, right, right_stride, sum, line, true);
    };
    if (!kGradients) return add(width, kappa, cols.cq(), cols.cq_stride(), out);
    if (stride_ == width) {
      add(2 * width, kappa, cols.cq(), cols.cq_stride(), out);
    } else {
      add(width, kappa, cols.cq(), cols.cq_stride(), out);
      add(width, kappa, cols.cq() + stride_, cols.cq_stride(), out + stride_);
    }
    add(width, weighted, cols.x(), stride_, out + 2 * stride_);
  }

  // n in the padding, where kappa is then exactly 0, while its products stay finite.
  static constexpr double kFarSmall = 2048;

  int64_t count_, dim_;
  PairSource<T> source_;
  std::vector<C> centre_;
  C beta_, h_sign_;
  int64_t blocks_, padded_, stride_;
  Buffer<C> scalars_, sums_, memory_;
  C* out_;
};

// Calls run(b) for the batch rows [first, first + batches).
template <class Run>
void each_problem(int64_t first, int64_t batches, const Run& run) {
  if (batches < kManyProblems) {
    for (int64_t b = first; b < first + batches; ++b) run(b);
    return;
  }
  cpu::parallel_for(first, first + batches, 1, [&](int64_t b, int64_t end) {
    for (; b < end; ++b) run(b);
  });
}

template <class T>
const T* from(const T* array, int64_t offset) {
  return array ? array + offset : nullptr;
}

template <class T, class C>
void forward_in(const FieldArgs<T>& a, int64_t first, int64_t batches, const double* centres) {
  const int64_t count = a.shape.rows, dim = a.shape.dim;
  each_problem(first, batches, [&](int64_t b) {
    const int64_t at = b * count * dim;
    const C beta = beta_of<T, C>(a.bandwidth, b);
    C* results = nullptr;
    if constexpr (std::is_same_v<T, C>) results = a.phi ? a.phi + at : nullptr;
    SymmetricProblem<T, C, false> problem(count, dim, {a.x + at, a.score + at, nullptr, nullptr}, centres + b * dim,
                                          beta, C(0), results);
    problem.run([&](int64_t i, const ExpandedRow<C>& row, const C* sums, C* out, int64_t) {
      finish_forward_row<T, C>(a, b, i, beta, row, {sums[0], sums[1], sums[2]}, out);
    });
  });
}

template <class T, class C>
void backward_in(const FieldGradArgs<T>& a, int64_t first, int64_t batches, const double* centres) {
  const int64_t count = a.shape.rows, dim = a.shape.dim;
  each_problem(first, batches, [&](int64_t b) {
    const int64_t at = b * count * dim;
    const C beta = beta_of<T, C>(a.bandwidth, b);
    const PairSource<T> source{a.row_x + at, from(a.row_score, at), from(a.row_grad_phi, at),
                               from(a.row_grad_trace, b * count)};
    SymmetricProblem<T, C, true> problem(count, dim, source, centres + b * dim, beta, C(trace_sign(a)), nullptr);
    problem.run([&](int64_t i, const ExpandedRow<C>& row, const C* sums, C* out, int64_t stride) {
      finish_backward_row<T, C>(a, b, i, beta, row, {sums[0], sums[1], sums[2]}, {sums[3], sums[4]}, out, out + stride,
                                out + 2 * stride);
    });
  });
}

}  // namespace

template <class T>
void field_forward_symmetric(const FieldArgs<T>& a) {
  by_spread(a, [&](int64_t b, int64_t n, const double* centres, auto zero) {
    forward_in<T, decltype(zero)>(a, b, n, centres);
  });
}

template <class T>
void field_backward_symmetric(const FieldGradArgs<T>& a) {
  by_spread(a, [&](int64_t b, int64_t n, const double* centres, auto zero) {
    backward_in<T, decltype(zero)>(a, b, n, centres);
  });
}

template void field_forward_symmetric(const FieldArgs<float>&);
template void field_forward_symmetric(const FieldArgs<double>&);
template void field_backward_symmetric(const FieldGradArgs<float>&);
template void field_backward_symmetric(const FieldGradArgs<double>&);

}  // namespace svgdx::SVGDX_ISA
