// The tensors of the running op: its arguments, and those that it creates. They are ordinary memory of torch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

// Lets kernels access a range outside the arena; a range inside a tracked one is part of it.
void track(uintptr_t base, size_t bytes, bool initialised);
bool is_tracked(uintptr_t address);
// The host writes or reads a range; memory that nothing tracks is not checked.
void host_wrote(uintptr_t base, size_t bytes);
void host_reads(uintptr_t base, size_t bytes, const char* by);

// Deletes the handles that keep the memory of tracked tensors from being used again during the op.
void release_tensors();

}  // namespace simt
