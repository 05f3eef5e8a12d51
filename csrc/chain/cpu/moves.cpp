// Metropolis-Hastings in a chain on the CPU, where the passes are too short to be shared by threads.
#include "chain/moves.h"

#include <cmath>

#include "chain/moved.h"
#include "common/beta.h"

namespace svgdx::cpu {
namespace {

// A particle's own pair: the kernel, and r.z.
template <class T>
struct OwnPair {
  T beta, kernel, r_dot_z;

  OwnPair(const MovedArgs<T>& args, int64_t row) {
    beta = beta_of_sigma(args.bandwidth[row / args.particles]);
    T square = 0, dot = 0;
    for (int64_t e = row * args.dim; e < (row + 1) * args.dim; ++e) {
      const T r = args.query[e] - args.x[e];
      square += r * r;
      dot += r * args.score[e];
    }
    kernel = chain::own_kernel(beta, square);
    r_dot_z = dot + beta * square;
  }

  T phi(const MovedArgs<T>& args, int64_t e) const {
    const T query_score = args.query_score == nullptr ? T(0) : args.query_score[e];
    return chain::moved_phi(args.phi[e], query_score, kernel, beta, args.score[e], args.query[e] - args.x[e],
                            T(args.particles));
  }
};

}  // namespace

template <class T>
void chain_moved(const MovedArgs<T>& args, void*) {
  for (int64_t row = 0; row < args.batch * args.particles; ++row) {
    const OwnPair<T> own(args, row);
    for (int64_t e = row * args.dim; e < (row + 1) * args.dim; ++e) args.phi[e] = own.phi(args, e);
    if (args.trace == nullptr) continue;
    args.trace[row] =
        chain::moved_trace(args.trace[row], own.kernel, own.beta, T(args.dim), own.r_dot_z, T(args.particles));
  }
}

template <class T>
void chain_inverse(const InverseArgs<T>& args, void*) {
  const MovedArgs<T>& moved = args.moved;
  const bool was_open = args.was_open == nullptr || *args.was_open != 0;
  for (int64_t row = 0; row < moved.batch * moved.particles; ++row) {
    const OwnPair<T> own(moved, row);
    const int64_t b = row / moved.particles;
    for (int64_t e = row * moved.dim; e < (row + 1) * moved.dim; ++e) {
      const T y = moved.query[e], next = moved.x[e] - args.step[b] * own.phi(moved, e);
      args.next[e] = was_open ? next : y;
      args.next_error[e] = was_open ? std::abs(next - y) : args.error[e];
      if (args.next_error[e] > args.limit[b]) *args.is_open = 1;
    }
  }
}

template <class T>
void chain_accept(const AcceptArgs<T>& args, void*) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const chain::Decision<T> decision = chain::decide(args, r);
    const T* from = chain::chosen(args, decision);
    for (int64_t e = r * args.dim; e < (r + 1) * args.dim; ++e) args.next[e] = from[e];
    args.change[r] = decision.change;
    args.accepted[r] = decision.accepted;
  }
}

template <class T>
void chain_accept_backward(const AcceptGradArgs<T>& args, void*) {
  const int64_t dim = args.forward.dim;
  for (int64_t r = 0; r < args.forward.rows; ++r) {
    const chain::Decision<T> decision = chain::decide(args.forward, r);
    for (int64_t e = r * dim; e < (r + 1) * dim; ++e) chain::share_gradient(args, decision, e);
    chain::store_gradients(args, decision, r);
  }
}

#define SVGDX_INSTANTIATE(T)                                 \
  template void chain_moved(const MovedArgs<T>&, void*);     \
  template void chain_inverse(const InverseArgs<T>&, void*); \
  template void chain_accept(const AcceptArgs<T>&, void*);   \
  template void chain_accept_backward(const AcceptGradArgs<T>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cpu
