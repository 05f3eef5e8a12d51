#include "host/memory.h"

#include <sys/mman.h>

#include <new>

#include "host/shadow.h"
#include "host/tensors.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace simt {

Arena arena;

namespace {

uintptr_t round_up(uintptr_t v, size_t to) { return (v + to - 1) / to * to; }

void reserve_arena() {
  if (arena.base) return;
  void* p = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  arena.base = reinterpret_cast<uintptr_t>(p);
  arena.next = arena.base + kRedZone;
  arena.regions.assign(1, Region());
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(p, kArenaBytes);
#endif
}

void open_region(const Region& region, bool initialised) {
  arena.regions.push_back(region);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(reinterpret_cast<void*>(region.base), region.bytes);
#endif
  shadow_open(static_cast<uint32_t>(arena.regions.size() - 1), initialised);
}

void* open_shared(Block& b, SharedKey key, size_t bytes, size_t device_offset, const char* name) {
  Region region;
  region.base = round_up(b.shared_next + kSharedRedZone, 128) + device_offset % 128;
  region.bytes = bytes;
  region.name = name;
  region.shared_slot = b.slot;
  region.device_offset = device_offset;
  b.shared_next = region.base + bytes + kSharedRedZone;
  open_region(region, false);
  return b.shared[key] = reinterpret_cast<void*>(region.base);
}

void check_shared_total(size_t bytes, const char* what, Loc loc) {
  if (bytes <= kSharedLimit) return;
  report("shared-overflow", std::string(what) + " needs " + std::to_string(bytes) + " bytes of shared memory", loc);
  abandon();
}

}  // namespace

void* allocate(size_t bytes, const char* name, bool initialised) {
  reserve_arena();
  Region region;
  region.base = round_up(arena.next + kRedZone, 256);
  region.bytes = bytes;
  region.name = name;
  if (region.base + bytes + kRedZone > slot_base(kSlots - 1)) throw std::bad_alloc();
  arena.next = region.base + bytes;
  open_region(region, initialised);
  return reinterpret_cast<void*>(region.base);
}

void track(uintptr_t base, size_t bytes, bool initialised) {
  reserve_arena();
  for (const Region& region : arena.regions) {
    if (base >= region.base && base + bytes <= region.base + region.bytes) return;
  }
  Region region;
  region.base = base;
  region.bytes = bytes;
  region.name = "tensor " + std::to_string(arena.regions.size());
  open_region(region, initialised);
}

void free_all() {
  if (!arena.base) return;
  void* base = reinterpret_cast<void*>(arena.base);
  if (arena_is_large()) madvise(base, kArenaBytes, MADV_DONTNEED);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(base, kArenaBytes);
#endif
  shadow_reset();
  arena.next = arena.base + kRedZone;
  arena.regions.assign(1, Region());
}

void start_block_memory(Block& b) {
  reserve_arena();
  const uintptr_t base = slot_base(b.slot);
  if (b.shared_next > base) {
    shadow_close(base, b.shared_next - base);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(reinterpret_cast<void*>(base), kSlotBytes);
#endif
  }
  b.shared_next = base + 128;
  b.static_bytes = 0;
  b.shared.clear();
}

void* static_shared(const void* key, size_t bytes, size_t align, const char* name, const char* file, int line) {
  Block& b = *current->block;
  const auto found = b.shared.find({key, 0});
  if (found != b.shared.end()) return found->second;
  // On the declared alignment and no more, so that wider accesses are reported as misaligned.
  size_t offset = round_up(b.static_bytes, align);
  if (align < 16 && offset % (2 * align) == 0) offset += align;
  b.static_bytes = offset + bytes;
  check_shared_total(b.static_bytes + runtime.dynamic_bytes, name, {file, line});
  return open_shared(b, {key, 0}, bytes, offset, name);
}

void* dynamic_shared(const char* name, const char* file, int line) {
  return carve_shared(0, runtime.dynamic_bytes, name, file, line);
}

void* carve_shared(size_t offset, size_t bytes, const char* name, const char* file, int line) {
  Block& b = *current->block;
  const SharedKey key{reinterpret_cast<const void*>(bytes),
                      offset};  // an empty array has the same offset as the next one
  if (offset + bytes > runtime.dynamic_bytes) {
    report("shared-overflow",
           std::string(name) + " ends at byte " + std::to_string(offset + bytes) + " of the " +
               std::to_string(runtime.dynamic_bytes) + " bytes of dynamic shared memory",
           {file, line});
    abandon();
  }
  const auto found = b.shared.find(key);
  if (found == b.shared.end()) return open_shared(b, key, bytes, offset, name);
  return found->second;
}

}  // namespace simt
