// What the stand-ins for the CUDA runtime and for torch's CUDA functions know about the running op.
#pragma once

#include <map>

#include "host/runtime.h"

namespace simt {

struct Device {
  bool in_op = false;  // the call runs an op and not a single kernel
  int guards = 0;      // device guards that are alive
  int launches = 0;
  bool unchecked = false;  // nobody has asked yet whether the last launch succeeded
  cudaError_t error = cudaSuccess;
  std::map<const void*, size_t> shared_limits;  // of kernels that opted in to more dynamic shared memory
};

extern Device device;

// The stream that torch calls current, which is not the default stream.
void* current_stream();
// Reports a launch that breaks a rule of the host layer: guard, stream, shared memory, a check after each launch.
void check_launch(const void* kernel, size_t shared, const void* stream);

void begin_device(bool in_op);
void end_device();

}  // namespace simt
