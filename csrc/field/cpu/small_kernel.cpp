// Batches of small problems of any dimension: one thread takes a problem through all steps in its cache and multiplies
// the matrices itself. The algebra is that of pack.h; if the particles are too far apart for it, the problem is
// computed in double, or pair by pair.
#include <optional>
#include <vector>

#include "common/cpu/parallel_for.h"
#include "common/vec_symmetric.h"
#include "field/cpu/expanded.h"
#include "field/cpu/kernels.h"
#include "memory/buffer.h"

namespace svgdx::SVGDX_ISA {
namespace {

// n of the columns in the padding, where kappa is then exactly 0; small, so that no product with it overflows.
constexpr double kPadding = 2048;

// From one row of a matrix to the next: a power of two would use few of the cache's sets.
template <class C>
int64_t spaced(int64_t width) {
  return width * sizeof(C) % 512 == 0 ? width + kLanes<C> : width;
}

// The whole batch's arrays of one side, (batch, count, dim); null means zeros.
template <class T>
struct SmallSource {
  const T *x, *score, *grad_phi, *grad_trace;
};

// Reads rows of `dim` numbers of T as vectors of C, whose lanes past the row's end are zero.
template <class T, class C>
class RowReader {
 public:
  RowReader(int64_t dim, int64_t total) : dim_(dim), tail_(dim % kLanes<C>), total_(total) {
    for (int lane = 0; lane < kLanes<C>; ++lane) inside_[lane] = lane < tail_ ? -1 : 0;
  }
  // Calls f(i, vector) for each vector of the row that starts at `start`; a null array is zero.
  template <class F>
  SVGDX_INLINE void operator()(const T* array, int64_t start, const F& f) const {
    int64_t i = 0;
    for (; i + kLanes<C> <= dim_; i += kLanes<C>) f(i, array ? whole(array + start + i) : Vec<C>{});
    if (tail_ > 0) f(i, array ? tail(array, start + i) : Vec<C>{});
  }

 private:
  static SVGDX_INLINE Vec<C> whole(const T* p) {
    if constexpr (std::is_same_v<T, C>) {
      return load(p);
    } else {
      Vec<C> v;
      for (int lane = 0; lane < kLanes<C>; ++lane) v[lane] = C(p[lane]);
      return v;
    }
  }
  SVGDX_INLINE Vec<C> tail(const T* array, int64_t at) const {
    // What follows the row is read too, and masked, unless the array ends.
    if (std::is_same_v<T, C> && at + kLanes<C> <= total_) {
      return (Vec<C>)((typename VecType<C>::I)whole(array + at) & inside_);
    }
    Vec<C> v{};
    for (int64_t lane = 0; lane < tail_; ++lane) v[lane] = C(array[at + lane]);
    return v;
  }

  int64_t dim_, tail_, total_;
  typename VecType<C>::I inside_;
};

// One side (rows or columns) of one problem: x centred, [C | q] side by side, scalars; padded to whole vectors.
template <class C>
struct SmallSide {
  int64_t count, dim, width, x_stride, stride, padded;
  bool gradients;
  Buffer<C> x, cq, n, w, hb, delta;

  SmallSide(int64_t count, int64_t dim, bool gradients)
      : count(count),
        dim(dim),
        width(padded_to_lanes<C>(dim)),
        x_stride(spaced<C>(width)),
        stride(spaced<C>(gradients ? 2 * width : width)),
        padded(padded_to_lanes<C>(count)),
        gradients(gradients),
        x(count * x_stride),
        cq(count * stride),
        n(padded),
        w(padded),
        hb(padded),
        delta(padded) {
    for (int64_t i = 0; i < padded; ++i) {
      n.get()[i] = C(kPadding);
      w.get()[i] = hb.get()[i] = delta.get()[i] = C(0);
    }
  }
  ExpandedRow<C> row(int64_t i) const {
    const C* const c = cq.get() + i * stride;
    return {x.get() + i * x_stride, c, c + width, n.get()[i], w.get()[i], hb.get()[i], delta.get()[i]};
  }

  // Fills it with problem b; returns the largest n.
  template <class T>
  C fill(const SmallSource<T>& s, const RowReader<T, C>& read, int64_t b, const C* centre, C beta, C h_sign) {
    C most = 0;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t at = b * count + j;
      C *const xr = x.get() + j * x_stride, *const cr = cq.get() + j * stride;
      Vec<C> norm{}, x_c{};
      read(s.x, at * dim, [&](int64_t i, Vec<C> v) {
        const Vec<C> r = v - load(centre + i);
        store(xr + i, r);
        norm += r * r;
      });
      read(s.score, at * dim, [&](int64_t i, Vec<C> v) {
        const Vec<C> r = load(xr + i), c = v - beta * r;
        store(cr + i, c);
        x_c += r * c;
      });
      const C half = C(0.5) * beta * lane_sum<C>(norm);
      n.get()[j] = half * C(pair::kLog2E);
      w.get()[j] = lane_sum<C>(x_c) + half;
      most = std::max(most, n.get()[j]);
      if (!gradients) continue;
      const C bh = s.grad_trace ? beta * C(s.grad_trace[at]) * h_sign : C(0);
      C* const qr = cr + width;
      Vec<C> x_q{};
      read(s.grad_phi, at * dim, [&](int64_t i, Vec<C> v) {
        const Vec<C> r = load(xr + i), q = v - bh * r;
        store(qr + i, q);
        x_q += r * q;
      });
      hb.get()[j] = bh;
      delta.get()[j] = beta * lane_sum<C>(x_q) + bh * (C(dim + 1) + half);
    }
    return most;
  }
};

// The memory of one thread, and the steps of one problem in it.
template <class T, class C>
class SmallProblem {
 public:
  SmallProblem(const FieldShape& shape, bool self, bool gradients)
      : shape_(shape),
        self_(self),
        read_(shape.dim, shape.batch * shape.cols * shape.dim),
        read_rows_(shape.dim, shape.batch * shape.rows * shape.dim),
        cols_(shape.cols, shape.dim, gradients),
        own_rows_(self ? 0 : shape.rows, shape.dim, gradients),
        line_(spaced<C>(cols_.padded)),
        centre_(cols_.width),
        transposed_((gradients ? 3 : 1) * shape.dim * line_),
        gram_(padded_to_lanes<C>(shape.rows) * line_),
        kernel_(gradients ? shape.rows * line_ : 0),
        weighted_(gradients ? padded_to_lanes<C>(shape.rows) * line_ : 0),
        products_(shape.rows * cols_.stride),
        weighted_x_(gradients ? shape.rows * cols_.x_stride : 0),
        sums_(shape.rows) {
    // The lanes past dim of a side stay zero, because the centre's do.
    std::fill_n(centre_.get(), cols_.width, C(0));
  }

  // Both return false, without a result, if the particles are too far apart for C.
  bool forward(const FieldArgs<T>& a, int64_t b) {
    const C beta = beta_of<T, C>(a.bandwidth, b);
    if (!fill({a.x, a.score, nullptr, nullptr}, {a.query, nullptr, nullptr, nullptr}, b, beta, C(0), false)) {
      return false;
    }
    kernel_values(beta, gram_.get());
    const int64_t stride = cols_.stride;
    small_product<C>(shape_.rows, shape_.cols, cols_.width, gram_.get(), line_, cols_.cq.get(), stride, products_.get(),
                     stride);
    for (int64_t i = 0; i < shape_.rows; ++i) {
      finish_forward_row<T, C>(a, b, i, beta, rows().row(i), sums_[i], products_.get() + i * stride);
    }
    return true;
  }

  bool backward(const FieldGradArgs<T>& a, int64_t b) {
    const C beta = beta_of<T, C>(a.bandwidth, b);
    if (!fill({a.col_x, a.col_score, a.col_grad_phi, a.col_grad_trace},
              {a.row_x, a.row_score, a.row_grad_phi, a.row_grad_trace}, b, beta, C(trace_sign(a)), particle_rows(a))) {
      return false;
    }
    const int64_t padded = cols_.padded, width = cols_.width, stride = cols_.stride, matrix = shape_.dim * line_;
    C *const c_t = transposed_.get() + matrix, *const q_t = c_t + matrix, *const weighted = weighted_.get();
    small_transpose<C>(shape_.cols, shape_.dim, cols_.cq.get(), stride, c_t, line_);
    kernel_values(beta, kernel_.get());
    const C* const row_c = rows().cq.get();
    small_product<C>(shape_.rows, shape_.dim, padded, row_c + width, stride, c_t, line_, weighted, line_);
    if (self_) {
      add_transpose<C>(shape_.rows, weighted, line_);
    } else {
      small_transpose<C>(shape_.cols, shape_.dim, cols_.cq.get() + width, stride, q_t, line_);
      small_product<C>(shape_.rows, shape_.dim, padded, row_c, stride, q_t, line_, weighted, line_, true);
    }
    const ExpandedColumns<C> columns{cols_.w.get(), cols_.hb.get(), cols_.delta.get(), padded};
    std::pair<C, C> weights[kSmallParticles];
    for (int64_t i = 0; i < shape_.rows; ++i) {
      weights[i] = weight_row<C>(weighted + i * line_, kernel_.get() + i * line_, gram_.get() + i * line_,
                                 rows().row(i), columns);
    }
    small_product<C>(shape_.rows, shape_.cols, 2 * width, kernel_.get(), line_, cols_.cq.get(), stride, products_.get(),
                     stride);
    const int64_t x_stride = cols_.x_stride;
    small_product<C>(shape_.rows, shape_.cols, width, weighted, line_, cols_.x.get(), x_stride, weighted_x_.get(),
                     x_stride);
    for (int64_t i = 0; i < shape_.rows; ++i) {
      C* const sum_c = products_.get() + i * stride;
      finish_backward_row<T, C>(a, b, i, beta, rows().row(i), sums_[i], weights[i], sum_c, sum_c + width,
                                weighted_x_.get() + i * x_stride);
    }
    return true;
  }

 private:
  const SmallSide<C>& rows() const { return self_ ? cols_ : own_rows_; }

  // The centre is that of the rows if they are the particles, else of the columns.
  bool fill(const SmallSource<T>& cols, const SmallSource<T>& rows, int64_t b, C beta, C h_sign, bool particle_rows) {
    C* const centre = centre_.get();
    const int64_t count = particle_rows ? shape_.rows : shape_.cols;
    const C inv_m = C(1) / C(count);
    std::fill_n(centre, cols_.width, C(0));
    const auto add = [&](int64_t i, Vec<C> v) { store(centre + i, load(centre + i) + v * inv_m); };
    if (particle_rows && !self_) {
      for (int64_t j = 0; j < count; ++j) read_rows_(rows.x, (b * count + j) * shape_.dim, add);
    } else {
      for (int64_t j = 0; j < count; ++j) read_(cols.x, (b * count + j) * shape_.dim, add);
    }
    C most = cols_.template fill<T>(cols, read_, b, centre, beta, h_sign);
    if (!self_) most = std::max(most, own_rows_.template fill<T>(rows, read_rows_, b, centre, beta, h_sign));
    if (most > C(sizeof(C) == 4 ? kMaxSpread : kMaxWideSpread)) return false;
    small_transpose<C>(shape_.cols, shape_.dim, cols_.x.get(), cols_.x_stride, transposed_.get(), line_);
    return true;
  }

  // Writes log2 kappa to gram_ and kappa to `kernel`, which may be the same array, and the rows' sums to sums_.
  void kernel_values(C beta, C* kernel) {
    const int64_t padded = cols_.padded;
    const C* const x = rows().x.get();
    if (self_) {
      small_square<C>(shape_.rows, shape_.dim, x, cols_.x_stride, transposed_.get(), line_, gram_.get(), line_);
    } else {
      small_product<C>(shape_.rows, shape_.dim, padded, x, cols_.x_stride, transposed_.get(), line_, gram_.get(),
                       line_);
    }
    for (int64_t i = 0; i < shape_.rows; ++i) {
      sums_[i] = kernel_row<C>(gram_.get() + i * line_, kernel + i * line_, padded, beta * C(pair::kLog2E),
                               rows().n.get()[i], cols_.n.get(), cols_.w.get(), self_ ? i : -1);
    }
  }

  FieldShape shape_;
  bool self_;
  RowReader<T, C> read_, read_rows_;
  SmallSide<C> cols_, own_rows_;
  int64_t line_;  // from one row of (rows, columns) to the next
  Buffer<C> centre_, transposed_, gram_, kernel_, weighted_, products_, weighted_x_;
  std::vector<KernelSums<C>> sums_;
};

// Calls solve(problem, b) for each problem, in the compute type, or in double if it returns false, and then plain(b).
template <class T, class Solve, class Plain>
void each_problem(const FieldShape& shape, bool self, bool gradients, const Solve& solve, const Plain& plain) {
  const int64_t work = std::max<int64_t>(1, shape.rows * shape.cols * shape.dim);
  cpu::parallel_for(0, shape.batch, 1 + (int64_t(1) << 15) / work, [&](int64_t begin, int64_t end) {
    SmallProblem<T, T> narrow(shape, self, gradients);
    std::optional<SmallProblem<T, double>> wide;
    for (int64_t b = begin; b < end; ++b) {
      if (solve(narrow, b)) continue;
      if (!wide) wide.emplace(shape, self, gradients);
      if (!solve(*wide, b)) plain(b);
    }
  });
}

}  // namespace

bool field_small_fits(const FieldShape& shape) {
  const int64_t most = std::max(shape.rows, shape.cols);
  return most <= kSmallParticles && most * shape.dim <= kSmallNumbers &&
         (shape.batch >= 4 || most * most * shape.dim <= kSmallWork);
}

template <class T>
void field_forward_small(const FieldArgs<T>& args) {
  each_problem<T>(
      args.shape, args.self, false, [&](auto& problem, int64_t b) { return problem.forward(args, b); },
      [&](int64_t b) { field_forward_plain(args, b, 1); });
}
template <class T>
void field_backward_small(const FieldGradArgs<T>& args) {
  each_problem<T>(
      args.shape, args.self, true, [&](auto& problem, int64_t b) { return problem.backward(args, b); },
      [&](int64_t b) { field_backward_plain(args, b, 1); });
}

template void field_forward_small(const FieldArgs<float>&);
template void field_forward_small(const FieldArgs<double>&);
template void field_backward_small(const FieldGradArgs<float>&);
template void field_backward_small(const FieldGradArgs<double>&);

}  // namespace svgdx::SVGDX_ISA
