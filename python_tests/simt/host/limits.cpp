#include "host/limits.h"

#include <map>
#include <string>

namespace simt {
namespace {

// Built when it is first used, since the limits are static variables of other files.
std::map<std::string, int64_t>& limits() {
  static std::map<std::string, int64_t> values;
  return values;
}

}  // namespace

const int64_t& limit(const char* name, int64_t usual) { return limits().emplace(name, usual).first->second; }

}  // namespace simt

// Sets a limit and returns its former value, or -1 if there is no such limit.
extern "C" __attribute__((visibility("default"))) int64_t simt_set_limit(const char* name, int64_t value) {
  const auto limit = simt::limits().find(name);
  if (limit == simt::limits().end()) return -1;
  const int64_t former = limit->second;
  limit->second = value;
  return former;
}
