// The C interface that harness.py loads with ctypes. A call is begin, then one launch or the ops of torch, then end.
#include <dlfcn.h>

#include <cstring>

#include "host/device.h"
#include "host/memory.h"
#include "host/registry.h"
#include "host/runtime.h"
#include "host/shadow.h"
#include "host/tensors.h"

#define SIMT_EXPORT extern "C" __attribute__((visibility("default")))

// An argument of a kernel as harness.py passes it.
struct SimtArgument {
  enum Kind : int32_t { kNone, kArray, kOutput, kScratch, kInt, kFloat } kind;
  void* data;
  int64_t bytes, integer;
  double real;
  const char* dtype;
  const char* name;
};

namespace simt {
namespace {

struct Copy {
  const SimtArgument* argument;
  void* device;
};

// Copies arrays to the harness's device memory, an array that is named twice once, and back.
class Arguments {
 public:
  Arguments(const SimtArgument* arguments, int count) {
    for (int i = 0; i < count; ++i) values_.push_back(convert(arguments[i]));
  }

  const Values& values() const { return values_; }

  void copy_back() {
    for (const Copy& copy : copies_) {
      const SimtArgument& a = *copy.argument;
      const auto bytes = static_cast<size_t>(a.bytes);
      const bool output = a.kind == SimtArgument::kOutput;
      if (output && !runtime.aborted && !shadow_written(reinterpret_cast<uintptr_t>(copy.device), bytes)) {
        report("unwritten-output", "not every byte of " + std::string(a.name) + " was written", {"", 0});
      }
      std::memcpy(a.data, copy.device, bytes);
    }
  }

 private:
  Value convert(const SimtArgument& a) {
    Value v;
    switch (a.kind) {
      case SimtArgument::kNone:
        return v;
      case SimtArgument::kInt:
        v.kind = Value::kInt;
        v.integer = a.integer;
        return v;
      case SimtArgument::kFloat:
        v.kind = Value::kFloat;
        v.real = a.real;
        return v;
      default:
        break;
    }
    v.kind = Value::kArray;
    v.dtype = a.dtype;
    for (const Copy& copy : copies_) {
      if (a.bytes && copy.argument->data == a.data && copy.argument->bytes == a.bytes) {
        v.data = copy.device;
        return v;
      }
    }
    v.data = allocate(static_cast<size_t>(a.bytes), a.name, a.kind == SimtArgument::kArray);
    if (a.kind == SimtArgument::kArray) std::memcpy(v.data, a.data, static_cast<size_t>(a.bytes));
    if (a.kind != SimtArgument::kScratch) copies_.push_back({&a, v.data});
    return v;
  }

  Values values_;
  std::vector<Copy> copies_;
};

template <class Map>
const auto& lookup(const Map& map, const char* name) {
  const auto entry = map.find(name);
  if (entry == map.end()) throw std::out_of_range(name);
  return entry->second;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

// A code address as its offset in this library; the return address is after the call.
std::string offset_of(uintptr_t pc) {
  Dl_info info;
  if (pc == 0 || !dladdr(reinterpret_cast<void*>(pc), &info)) return "null";
  return std::to_string(pc - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase));
}

std::string json_of(const Report& r) {
  return "{\"kind\": " + quoted(r.kind) + ", \"text\": " + quoted(r.text) + ", \"kernel\": " + quoted(r.kernel) +
         ", \"file\": " + quoted(r.file) + ", \"line\": " + std::to_string(r.line) + ", \"pc\": " + offset_of(r.pc) +
         ", \"other_pc\": " + offset_of(r.other_pc) + ", \"block\": " + quoted(r.block) +
         ", \"thread\": " + quoted(r.thread) + ", \"count\": " + std::to_string(r.count) + "}";
}

std::string json_of(const LineCount& c) {
  std::string out = "{\"pc\": " + offset_of(c.pc) + ", \"kernel\": " + quoted(c.kernel) + ", \"space\": \"" +
                    (c.shared ? "shared" : "global") + "\", \"write\": " + (c.write ? "true" : "false");
  const std::pair<const char*, int64_t> numbers[] = {
      {"bytes_per_lane", c.bytes_per_lane},
      {"accesses", c.accesses},
      {"requests", c.requests},
      {"sectors", c.sectors},
      {"bytes", c.bytes},
      {"wavefronts", c.wavefronts},
      {"least_wavefronts", c.least_wavefronts},
  };
  for (const auto& [name, value] : numbers) out += ", \"" + std::string(name) + "\": " + std::to_string(value);
  return out + "}";
}

template <class Items>
std::string json_list(const Items& items) {
  std::string out = "[";
  for (const auto& item : items) out += (out.size() > 1 ? ", " : "") + json_of(item);
  return out + "]";
}

}  // namespace
}  // namespace simt

SIMT_EXPORT void simt_begin(uint64_t seed, double preempt, int resident, int counters, int64_t max_switches,
                            int in_op) {
  simt::Options options;
  options.seed = seed;
  options.preempt = preempt;
  options.resident = resident;
  options.counters = counters != 0;
  options.max_switches = max_switches;
  simt::begin_call(options);
  simt::begin_device(in_op != 0);
}

// Runs a kernel, or a launch function if `config` (grid, block, bytes of shared memory) is null. Returns what is wrong
// with the arguments, or null.
SIMT_EXPORT const char* simt_launch(const char* name, const uint32_t* config, const SimtArgument* arguments,
                                    int count) {
  static std::string error;
  try {
    simt::Arguments copies(arguments, count);
    if (config) {
      const dim3 grid(config[0], config[1], config[2]), block(config[3], config[4], config[5]);
      simt::lookup(simt::exported_kernels(), name)(grid, block, config[6], copies.values());
    } else {
      simt::lookup(simt::exported_calls(), name)(copies.values());
    }
    copies.copy_back();
    return nullptr;
  } catch (const std::out_of_range&) {
    error = std::string("there is no kernel ") + name;
  } catch (const std::exception& e) {
    error = e.what();
  }
  return error.c_str();
}

// Declares a result of the op, which must have been written.
SIMT_EXPORT void simt_output(const void* data, int64_t bytes) {
  simt::host_reads(reinterpret_cast<uintptr_t>(data), static_cast<size_t>(bytes), "the caller");
}

// Ends the call and returns its reports and counters as JSON.
SIMT_EXPORT const char* simt_end() {
  static std::string json;
  simt::end_device();
  json = "{\"launches\": " + std::to_string(simt::device.launches) +
         ", \"reports\": " + simt::json_list(simt::runtime.reports) +
         ", \"counters\": " + simt::json_list(simt::shadow_counters()) + "}";
  simt::end_call();
  return json.c_str();
}
