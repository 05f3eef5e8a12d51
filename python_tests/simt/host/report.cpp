// Reports, the registry, and the begin and end of a call from Python.
#include "host/memory.h"
#include "host/registry.h"
#include "host/runtime.h"
#include "host/tensors.h"

namespace simt {
namespace {

std::string text_of(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

}  // namespace

Report& report(const std::string& kind, const std::string& text, Loc loc, uintptr_t pc, uintptr_t other_pc) {
  const std::string key = kind + "|" + runtime.kernel + "|" + (loc.file ? loc.file : "") + "|" +
                          std::to_string(loc.line) + "|" + std::to_string(pc) + "|" + std::to_string(other_pc);
  const auto found = runtime.report_index.find(key);
  if (found != runtime.report_index.end()) {
    Report& r = runtime.reports[found->second];
    ++r.count;
    return r;
  }
  Report r;
  r.kind = kind;
  r.text = text;
  r.kernel = runtime.kernel;
  r.file = loc.file ? loc.file : "";
  r.line = loc.line;
  r.pc = pc;
  r.other_pc = other_pc;
  if (current) {
    r.block = text_of(current->block->index);
    r.thread = text_of(current->thread_idx);
  }
  runtime.report_index[key] = runtime.reports.size();
  runtime.reports.push_back(r);
  return runtime.reports.back();
}

void begin_call(const Options& options) {
  runtime.options = options;
  runtime.random = (options.seed + 1) * 0x9E3779B97F4A7C15ull | 1;
  for (int i = 0; i < 8; ++i) draw(2);
  const double p = options.preempt < 0 ? 0 : options.preempt > 1 ? 1 : options.preempt;
  runtime.preempt_below = static_cast<uint32_t>(p * 4294967295.0);
  runtime.reports.clear();
  runtime.report_index.clear();
  runtime.aborted = false;
  runtime.kernel = "";
}

void end_call() {
  runtime.kernel = "";
  free_all();
  release_tensors();
}

std::map<std::string, Call>& exported_calls() {
  static std::map<std::string, Call> calls;
  return calls;
}
std::map<std::string, KernelCall>& exported_kernels() {
  static std::map<std::string, KernelCall> kernels;
  return kernels;
}

}  // namespace simt
