#include "host/device.h"

#include "host/memory.h"

namespace simt {

Device device;

void* current_stream() {
  static char stream;
  return &stream;
}

void check_launch(const void* kernel, size_t shared, const void* stream) {
  const Loc loc{runtime.kernel, 0};
  ++device.launches;
  if (shared > kSharedDefault) {
    const auto limit = device.shared_limits.find(kernel);
    if (limit == device.shared_limits.end() || shared > limit->second) {
      report("invalid-launch", std::to_string(shared) + " bytes of dynamic shared memory without opting in", loc);
    }
  }
  if (!device.in_op) return;
  if (device.guards == 0) report("no-device-guard", "the launch has no device guard", loc);
  if (stream != current_stream()) report("wrong-stream", "the launch is not on torch's current stream", loc);
  if (device.unchecked) report("unchecked-launch", "no check follows the launch before this one", loc);
  device.unchecked = true;
}

void begin_device(bool in_op) {
  device = Device();
  device.in_op = in_op;
}

void end_device() {
  if (runtime.aborted) return;
  if (device.in_op && device.unchecked) {
    report("unchecked-launch", "no check follows the launch", {runtime.kernel, 0});
  }
  if (device.guards != 0) report("device-guard", "a device guard outlives the op", {runtime.kernel, 0});
}

cudaError_t set_shared_limit(const void* kernel, int bytes) {
  if (bytes < 0 || size_t(bytes) > kSharedLimit) return cudaErrorInvalidValue;
  device.shared_limits[kernel] = size_t(bytes);
  return cudaSuccess;
}

}  // namespace simt

cudaError_t cudaGetLastError() {
  simt::device.unchecked = false;
  const cudaError_t error = simt::device.error;
  simt::device.error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    default:
      return "invalid configuration argument";
  }
}
