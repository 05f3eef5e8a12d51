#include "jacobian/cpu/gram_kernel.h"

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <type_traits>

#include "jacobian/cpu/gram_gradient.h"

namespace svgdx::SVGDX_ISA {
namespace {

// Up to this many particles, and numbers in one array, a problem is small. Fewer than four problems must also be little
// work, in multiply-adds of one product.
constexpr int64_t kSmallParticles = 256, kSmallNumbers = int64_t(1) << 16, kSmallWork = int64_t(1) << 22;
// From this many particles on, the rounding errors of a row's M^2 terms in float average out.
constexpr int64_t kNarrowParticles = 48;

template <class T>
bool is_small(const JacobianArgs<T>& a) {
  return a.particles <= kSmallParticles && a.particles * a.dim <= kSmallNumbers &&
         (a.batch >= 4 || a.particles * a.particles * std::max(a.particles, a.dim) <= kSmallWork);
}

template <class T, class C>
class Forward {
 public:
  Forward(const JacobianArgs<T>& args, bool small) : problem_(args, small) {}
  bool run(int64_t batch) {
    if (!problem_.load_row(batch)) return false;
    problem_.products();
    for (int64_t i = 0; i < problem_.m; ++i) {
      problem_.args.out[batch * problem_.m + i] = T(problem_.square(i) + problem_.cross(i) + problem_.own(i));
    }
    return true;
  }

 private:
  GramProblem<T, C> problem_;
};

// Computes each batch row, in float if the inputs are float and no digits are lost, else in double. Narrow and Wide are
// the two passes, which `emplace` makes.
template <class Narrow, class Wide, class T, class Emplace>
void each_batch_row(const JacobianArgs<T>& args, const Emplace& emplace) {
  const bool small = is_small(args);
  const auto rows = [&](int64_t begin, int64_t end) {
    std::optional<Narrow> narrow;
    std::optional<Wide> wide;
    for (int64_t b = begin; b < end; ++b) {
      if constexpr (!std::is_same_v<Narrow, Wide>) {
        if (args.particles >= kNarrowParticles) {
          if (!narrow) emplace(narrow, small);
          if (narrow->run(b)) continue;
        }
      }
      if (!wide) emplace(wide, small);
      wide->run(b);
    }
  };
  if (!small) return rows(0, args.batch);
  const int64_t work = args.particles * args.particles * (args.particles + args.dim);
  torch::stable::parallel_for(0, args.batch, 1 + (int64_t(1) << 15) / work, rows);
}

}  // namespace

template <class T>
void gram_forward_rows(const JacobianArgs<T>& args) {
  each_batch_row<Forward<T, T>, Forward<T, double>>(args, [&](auto& pass, bool small) { pass.emplace(args, small); });
}
template <class T>
void gram_backward_rows(const JacobianGradArgs<T>& args, double* euler) {
  each_batch_row<GramGradient<T, T>, GramGradient<T, double>>(
      args.forward, [&](auto& pass, bool small) { pass.emplace(args, euler, small); });
}

template void gram_forward_rows(const JacobianArgs<float>&);
template void gram_forward_rows(const JacobianArgs<double>&);
template void gram_backward_rows(const JacobianGradArgs<float>&, double*);
template void gram_backward_rows(const JacobianGradArgs<double>&, double*);

}  // namespace svgdx::SVGDX_ISA
