// Stand-ins for torch's C functions: in an op of this library, CPU tensors look like CUDA tensors, so that the host
// layer of the CUDA library runs as it stands, and the memory that it hands to kernels is tracked. The functions are
// those of the stable ABI that the headers call; each passes on to torch's own.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>

#include <set>
#include <string>
#include <vector>

#include "host/device.h"
#include "host/tensors.h"

namespace simt {
namespace {

std::set<const void*> host_memory;  // of tensors that stay on the CPU, such as the widths of a network
std::vector<AtenTensorHandle> alive;

struct Extent {
  uintptr_t base = 0;
  size_t bytes = 0;
};

Extent extent_of(AtenTensorHandle t) {
  void* data = nullptr;
  int64_t numel = 0, dim = 0, *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0;
  aoti_torch_get_numel(t, &numel);
  aoti_torch_get_dim(t, &dim);
  aoti_torch_get_sizes(t, &sizes);
  aoti_torch_get_strides(t, &strides);
  aoti_torch_get_dtype(t, &dtype);
  static const auto data_ptr =
      reinterpret_cast<decltype(&aoti_torch_get_data_ptr)>(dlsym(RTLD_NEXT, "aoti_torch_get_data_ptr"));
  data_ptr(t, &data);
  if (numel == 0) return {};
  int64_t last = 0;
  for (int64_t d = 0; d < dim; ++d) last += (sizes[d] - 1) * strides[d];
  return {reinterpret_cast<uintptr_t>(data), size_t(last + 1) * aoti_torch_dtype_element_size(dtype)};
}

void track_tensor(AtenTensorHandle t, bool initialised) {
  const Extent e = extent_of(t);
  if (!device.in_op || e.bytes == 0 || host_memory.count(reinterpret_cast<void*>(e.base))) return;
  AtenTensorHandle handle = nullptr;
  aoti_torch_new_tensor_handle(t, &handle);
  alive.push_back(handle);
  track(e.base, e.bytes, initialised);
}

// What an op of torch reads and writes among its first arguments, as bits.
struct Effect {
  const char* name;
  unsigned reads, writes;
};

constexpr Effect kEffects[] = {
    {"aten::mm.out", 3, 4},     {"aten::bmm.out", 3, 4},         {"aten::matmul", 3, 0},          {"aten::copy_", 2, 1},
    {"aten::zero_", 0, 1},      {"aten::clone", 1, 0},           {"aten::mul.Tensor", 3, 0},      {"aten::exp", 1, 0},
    {"aten::contiguous", 1, 0}, {"aten::to.dtype_layout", 1, 0}, {"aten::sum.dim_IntList", 1, 0},
};

}  // namespace

void release_tensors() {
  for (const AtenTensorHandle handle : alive) aoti_torch_delete_tensor_object(handle);
  alive.clear();
  host_memory.clear();
}

}  // namespace simt

#define SIMT_NEXT(name) static const auto next = reinterpret_cast<decltype(&name)>(dlsym(RTLD_NEXT, #name))

using simt::device;
using simt::extent_of;

extern "C" {

// Declares that a tensor of the next op is on the CPU.
__attribute__((visibility("default"))) void simt_host(const void* data) { simt::host_memory.insert(data); }

AOTITorchError aoti_torch_library_init_impl(const char* ns, const char*, const char* file, uint32_t line,
                                            TorchLibraryHandle* library) {
  SIMT_NEXT(aoti_torch_library_init_impl);
  return next((ns + std::string("_simt")).c_str(), "CPU", file, line, library);
}

AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* type) {
  SIMT_NEXT(aoti_torch_get_device_type);
  const AOTITorchError error = next(tensor, type);
  if (error == AOTI_TORCH_SUCCESS && device.in_op && *type == aoti_torch_device_type_cpu()) {
    const void* data = reinterpret_cast<void*>(extent_of(tensor).base);
    if (!simt::host_memory.count(data)) *type = aoti_torch_device_type_cuda();
  }
  return error;
}

AOTITorchError torch_get_const_data_ptr(AtenTensorHandle tensor, const void** data) {
  SIMT_NEXT(torch_get_const_data_ptr);
  simt::track_tensor(tensor, true);
  return next(tensor, data);
}

AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** data) {
  SIMT_NEXT(torch_get_mutable_data_ptr);
  simt::track_tensor(tensor, true);
  return next(tensor, data);
}

AOTITorchError torch_call_dispatcher(const char* name, const char* overload, StableIValue* stack, uint64_t version) {
  SIMT_NEXT(torch_call_dispatcher);
  const std::string full = name + std::string(*overload ? "." : "") + overload;
  std::vector<simt::Extent> written;
  for (const simt::Effect& effect : simt::kEffects) {
    if (full != effect.name) continue;
    for (int i = 0; i < 3; ++i) {
      if (!((effect.reads | effect.writes) >> i & 1)) continue;
      const auto e = extent_of(torch::stable::detail::to<AtenTensorHandle>(stack[i]));
      if (effect.reads >> i & 1) simt::host_reads(e.base, e.bytes, name);
      if (effect.writes >> i & 1) written.push_back(e);
    }
  }
  if (full == "aten::to.dtype_layout" && stack[3] != 0) {
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    *reinterpret_cast<StableIValue*>(stack[3]) = torch::stable::detail::from(cpu);
  }
  const AOTITorchError error = next(name, overload, stack, version);
  if (error != AOTI_TORCH_SUCCESS) return error;
  for (const simt::Extent& e : written) simt::host_wrote(e.base, e.bytes);
  return error;
}

AOTITorchError aoti_torch_aten_subtract_Tensor(AtenTensorHandle a, AtenTensorHandle b, double alpha,
                                               AtenTensorHandle* result) {
  SIMT_NEXT(aoti_torch_aten_subtract_Tensor);
  for (const AtenTensorHandle t : {a, b}) simt::host_reads(extent_of(t).base, extent_of(t).bytes, "aten::subtract");
  return next(a, b, alpha, result);
}

AOTITorchError aoti_torch_aten_full(const int64_t* size, int64_t dim, double value, int32_t* dtype, int32_t* layout,
                                    int32_t* device_type, int32_t index, int32_t* pinned, AtenTensorHandle* result) {
  SIMT_NEXT(aoti_torch_aten_full);
  int32_t cpu = aoti_torch_device_type_cpu();
  return next(size, dim, value, dtype, layout, device_type ? &cpu : nullptr, index, pinned, result);
}

AOTITorchError aoti_torch_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t, int32_t index, AtenTensorHandle* result) {
  SIMT_NEXT(aoti_torch_empty_strided);
  const AOTITorchError error = next(dim, sizes, strides, dtype, aoti_torch_device_type_cpu(), index, result);
  if (error == AOTI_TORCH_SUCCESS) simt::track_tensor(*result, false);
  return error;
}

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = simt::current_stream();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  ++device.guards;
  *guard = reinterpret_cast<DeviceGuardHandle>(&device);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  --device.guards;
  return AOTI_TORCH_SUCCESS;
}

}  // extern "C"
