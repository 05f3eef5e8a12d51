// The passes over particles: their A_i with the results, and their gradients.
#include "jacobian/cpu/form.h"
#include "jacobian/cpu/gather.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <class T, int kDim>
void gather_from(const JacobianGradArgs<T>& args, const JacobianRow<T>& row, int64_t first) {
  constexpr int kSize = kDim ? kDim : kMaxJacobianDim;
  const int entries = row.dim * row.dim;
  Vec<T> b_k[kSize * kSize], dot;
  row.load(args.adjoint, entries, first, b_k);
  row.load(args.euler, 1, first, &dot);
  gather<T, kDim>(args, row, first, args.adjoint + row.offset * entries, b_k, dot);
}

}  // namespace

template <class T>
void jacobian_forward_items(const JacobianArgs<T>& args, int64_t begin, int64_t end) {
  for_each_vector(args, begin, end,
                  [&](const JacobianRow<T>& row, int64_t first) { forward_vector(args, row, first); });
}

template <class T>
void jacobian_adjoint_items(const JacobianGradArgs<T>& args, int64_t begin, int64_t end) {
  for_each_vector(args.forward, begin, end, [&](const JacobianRow<T>& row, int64_t first) {
    Vec<T> adjoint[kMaxJacobianDim * kMaxJacobianDim];
    const Vec<T> dot = adjoint_vector(args, row, first, adjoint);
    row.store(adjoint, row.dim * row.dim, first, args.adjoint);
    row.store(&dot, 1, first, args.euler);
  });
}

template <class T>
void jacobian_gather_items(const JacobianGradArgs<T>& args, int64_t begin, int64_t end) {
  for_each_vector(args.forward, begin, end, [&](const JacobianRow<T>& row, int64_t first) {
    switch (row.dim) {
      case 1:
        return gather_from<T, 1>(args, row, first);
      case 2:
        return gather_from<T, 2>(args, row, first);
      case 3:
        return gather_from<T, 3>(args, row, first);
      case 4:
        return gather_from<T, 4>(args, row, first);
      default:
        return gather_from<T, 0>(args, row, first);
    }
  });
}

template void jacobian_forward_items(const JacobianArgs<float>&, int64_t, int64_t);
template void jacobian_forward_items(const JacobianArgs<double>&, int64_t, int64_t);
template void jacobian_adjoint_items(const JacobianGradArgs<float>&, int64_t, int64_t);
template void jacobian_adjoint_items(const JacobianGradArgs<double>&, int64_t, int64_t);
template void jacobian_gather_items(const JacobianGradArgs<float>&, int64_t, int64_t);
template void jacobian_gather_items(const JacobianGradArgs<double>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
