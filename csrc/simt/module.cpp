// The Python module: copies NumPy arrays to and from the harness's device memory, runs kernels, returns reports.
#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "simt/memory.h"
#include "simt/registry.h"
#include "simt/runtime.h"
#include "simt/shadow.h"

namespace py = pybind11;

namespace simt {
namespace {

struct Held {
  py::array array;
  void* device;
  size_t bytes;
  bool output;
  std::string name;
};

// The arrays of one call; each is copied to the device once, even if passed several times.
class Arguments {
 public:
  Value convert(const py::handle& h, const std::string& name) {
    Value v;
    if (h.is_none()) return v;
    if (py::isinstance<py::tuple>(h)) {
      const auto t = h.cast<py::tuple>();
      const auto kind = t[0].cast<std::string>();
      if (kind == "out") return array(t[1].cast<py::array>(), name, true);
      v.kind = Value::kArray;
      v.dtype = "raw";
      v.data = device_scratch(t[1].cast<size_t>(), name.c_str());
      return v;
    }
    if (py::isinstance<py::array>(h)) return array(h.cast<py::array>(), name, false);
    if (py::isinstance<py::dict>(h)) {
      v.kind = Value::kDict;
      for (const auto& item : h.cast<py::dict>()) {
        const auto key = item.first.cast<std::string>();
        v.dict[key] = convert(item.second, key);
      }
      return v;
    }
    if (py::isinstance<py::int_>(h)) {
      v.kind = Value::kInt;
      v.integer = h.cast<int64_t>();
      return v;
    }
    v.kind = Value::kFloat;
    v.real = h.cast<double>();
    return v;
  }

  Values convert(const py::list& list) {
    Values values;
    for (size_t i = 0; i < list.size(); ++i) values.push_back(convert(list[i], "argument " + std::to_string(i)));
    return values;
  }

  void copy_back() {
    for (Held& h : held_) {
      if (h.output && !runtime.aborted && !shadow_written(reinterpret_cast<uintptr_t>(h.device), h.bytes)) {
        report("unwritten-output", "not every byte of " + h.name + " was written", {"", 0});
      }
      if (h.array.writeable()) std::memcpy(h.array.mutable_data(), h.device, h.bytes);
    }
  }

 private:
  Value array(const py::array& a, const std::string& name, bool output) {
    if (!(a.flags() & py::array::c_style)) throw std::invalid_argument(name + ": expected a C-contiguous array");
    Value v;
    v.kind = Value::kArray;
    v.dtype = a.dtype().attr("name").cast<std::string>();
    for (const Held& h : held_) {
      if (a.nbytes() && h.array.data() == a.data() && h.bytes == size_t(a.nbytes())) {
        v.data = h.device;
        return v;
      }
    }
    const auto bytes = static_cast<size_t>(a.nbytes());
    v.data = allocate(bytes, name.c_str(), !output);
    if (!output) std::memcpy(v.data, a.data(), bytes);
    held_.push_back({a, v.data, bytes, output, name});
    return v;
  }

  std::vector<Held> held_;
};

py::object offset_of(uintptr_t pc) {
  Dl_info info;
  if (pc == 0 || !dladdr(reinterpret_cast<void*>(pc), &info)) return py::none();
  // the return address is after the call
  return py::make_tuple(info.dli_fname, pc - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase));
}

py::list reports_of_call() {
  py::list list;
  for (const Report& r : runtime.reports) {
    py::dict d;
    d["kind"] = r.kind;
    d["text"] = r.text;
    d["kernel"] = r.kernel;
    d["file"] = r.file;
    d["line"] = r.line;
    d["pc"] = offset_of(r.pc);
    d["other_pc"] = offset_of(r.other_pc);
    d["block"] = r.block;
    d["thread"] = r.thread;
    d["count"] = r.count;
    list.append(d);
  }
  return list;
}

py::list counters_of_call() {
  py::list list;
  for (const LineCount& c : shadow_counters()) {
    py::dict d;
    d["pc"] = offset_of(c.pc);
    d["kernel"] = c.kernel;
    d["space"] = c.shared ? "shared" : "global";
    d["write"] = c.write;
    d["bytes_per_lane"] = c.bytes_per_lane;
    d["accesses"] = c.accesses;
    d["requests"] = c.requests;
    d["sectors"] = c.sectors;
    d["bytes"] = c.bytes;
    d["wavefronts"] = c.wavefronts;
    d["least_wavefronts"] = c.least_wavefronts;
    list.append(d);
  }
  return list;
}

dim3 dim3_of(const std::vector<unsigned>& v) { return dim3(v.at(0), v.size() > 1 ? v[1] : 1, v.size() > 2 ? v[2] : 1); }

template <class Map>
const auto& lookup(const Map& map, const std::string& name) {
  const auto found = map.find(name);
  if (found == map.end()) throw py::key_error(name);
  return found->second;
}

// Ends the call even if an argument is rejected.
struct CallFrame {
  explicit CallFrame(const Options& options) { begin_call(options); }
  ~CallFrame() { end_call(); }
};

Options options_of(const py::dict& d) {
  Options o;
  for (const auto& item : d) {
    const auto key = item.first.cast<std::string>();
    if (key == "seed")
      o.seed = item.second.cast<uint64_t>();
    else if (key == "preempt")
      o.preempt = item.second.cast<double>();
    else if (key == "resident")
      o.resident = item.second.cast<int>();
    else if (key == "counters")
      o.counters = item.second.cast<bool>();
    else if (key == "max_switches")
      o.max_switches = item.second.cast<int64_t>();
    else
      throw std::invalid_argument("unknown option: " + key);
  }
  return o;
}

// `config` is None for an exported function, and (grid, block, shared bytes) for a kernel.
py::dict run(const std::string& name, const py::object& config, const py::list& args, const py::dict& options) {
  CallFrame frame(options_of(options));
  Arguments arguments;
  const Values values = arguments.convert(args);
  py::dict result;
  if (config.is_none()) {
    result["value"] = lookup(exported_calls(), name)(values);
  } else {
    const auto c = config.cast<std::tuple<std::vector<unsigned>, std::vector<unsigned>, size_t>>();
    lookup(exported_kernels(), name)(dim3_of(std::get<0>(c)), dim3_of(std::get<1>(c)), std::get<2>(c), values);
  }
  arguments.copy_back();
  result["reports"] = reports_of_call();
  result["counters"] = counters_of_call();
  return result;
}

void define(py::module_& m) {
  m.def("run", &run);
  m.def("kernels", [] {
    py::list names;
    for (const auto& entry : exported_kernels()) names.append(entry.first);
    return names;
  });
  m.def("calls", [] {
    py::list names;
    for (const auto& entry : exported_calls()) names.append(entry.first);
    return names;
  });
}

}  // namespace
}  // namespace simt

// One object file serves all three builds; each is imported under its own name.
PYBIND11_MODULE(svgdx_simt_fast, m) { simt::define(m); }
PYBIND11_MODULE(svgdx_simt_checked, m) { simt::define(m); }
PYBIND11_MODULE(svgdx_simt_asan, m) { simt::define(m); }
