// Argument structs from Python: a dict holds the fields by the names of the struct; missing fields are null or zero.
#pragma once

#include "common/per_batch.h"
#include "common/philox.h"
#include "simt/registry.h"

namespace svgdx {

class Fields {
 public:
  explicit Fields(const simt::Value& v) : dict_(v.dict) {
    if (v.kind != simt::Value::kDict) throw std::invalid_argument("expected a dict of fields");
  }

  template <class T>
  void set(T& field, const char* name) {
    const auto found = dict_.find(name);
    field = T();
    if (found == dict_.end()) return;
    try {
      field = simt::convert<T>(found->second);
    } catch (const std::invalid_argument& e) {
      throw std::invalid_argument(std::string(name) + ": " + e.what());
    }
    ++used_;
  }
  // Key `name` holds the array, `name_stride` its stride.
  template <class T>
  void set(PerBatch<T>& field, const char* name) {
    set(field.data, name);
    set(field.stride, (std::string(name) + "_stride").c_str());
  }
  void done() const {
    if (used_ != dict_.size()) throw std::invalid_argument("the dict has a field that the struct does not have");
  }

 private:
  const std::map<std::string, simt::Value>& dict_;
  size_t used_ = 0;
};

inline void set_key(Fields& f, PhiloxKey& key) {
  f.set(key.seed, "seed"), f.set(key.offset, "offset"), f.set(key.words, "key");
}

inline void add_call(const std::string& name, const simt::Call& call) { simt::exported_calls()[name] = call; }

}  // namespace svgdx

#define SVGDX_SET(field) f.set(a.field, #field)
