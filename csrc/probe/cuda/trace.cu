#include "probe/cuda/trace.cuh"

namespace svgdx::cuda {

template void probe_trace(const ProbeTraceArgs<float>&, void*);
template void probe_trace(const ProbeTraceArgs<double>&, void*);
template void probe_trace(const ProbeTraceArgs<Bf16>&, void*);
template void probe_trace(const ProbeTraceArgs<Fp16>&, void*);
template void probe_trace_backward(const ProbeTraceGradArgs<float>&, void*);
template void probe_trace_backward(const ProbeTraceGradArgs<double>&, void*);
template void probe_trace_backward(const ProbeTraceGradArgs<Bf16>&, void*);
template void probe_trace_backward(const ProbeTraceGradArgs<Fp16>&, void*);

}  // namespace svgdx::cuda
