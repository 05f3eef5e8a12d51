// The same for batches of few particles each: as many batch rows as there are lanes at once.
#include "jacobian/cpu/form.h"
#include "jacobian/cpu/gather.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <class T>
Vec<T>* vectors(const Buffer<T>& memory) {
  return reinterpret_cast<Vec<T>*>(memory.get());
}

}  // namespace

int64_t jacobian_groups(int64_t batch, int64_t particles, int64_t dim, int64_t element_size) {
  const int64_t lanes = SVGDX_VECTOR_BYTES / element_size, groups = (batch + lanes - 1) / lanes;
  const int64_t vectors = batch * ((particles + lanes - 1) / lanes);
  // The items have loops of fixed length up to four dimensions, the groups have none.
  const bool fewer = dim <= 4 ? 2 * groups * particles <= vectors : 4 * groups * particles <= 3 * vectors;
  return particles <= kJacobianBlock && fewer ? groups : 0;
}

template <class T>
void jacobian_forward_groups(const JacobianArgs<T>& args, int64_t begin, int64_t end) {
  const Buffer<T> memory(2 * args.particles * args.dim * kLanes<T>);
  for (int64_t group = begin; group < end; ++group) {
    const JacobianGroup<T> row(args, group, vectors(memory));
    for (int64_t i = 0; i < args.particles; ++i) forward_vector(args, row, i);
  }
}

template <class T>
void jacobian_backward_groups(const JacobianGradArgs<T>& args, int64_t begin, int64_t end) {
  const int64_t count = args.forward.particles, dim = args.forward.dim, entries = dim * dim;
  const Buffer<T> memory(2 * count * dim * kLanes<T>), adjoints(count * entries * kLanes<T>);
  Vec<T>*const adjoint = vectors(adjoints), dot[kJacobianBlock];
  for (int64_t group = begin; group < end; ++group) {
    const JacobianGroup<T> row(args.forward, group, vectors(memory));
    for (int64_t i = 0; i < count; ++i) dot[i] = adjoint_vector(args, row, i, adjoint + i * entries);
    for (int64_t k = 0; k < count; ++k) gather<T, 0>(args, row, k, adjoint, adjoint + k * entries, dot[k]);
  }
}

template void jacobian_forward_groups(const JacobianArgs<float>&, int64_t, int64_t);
template void jacobian_forward_groups(const JacobianArgs<double>&, int64_t, int64_t);
template void jacobian_backward_groups(const JacobianGradArgs<float>&, int64_t, int64_t);
template void jacobian_backward_groups(const JacobianGradArgs<double>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
