// Keys of random draws from the arguments of an op.
#pragma once

#include "common/philox.h"
#include "common/storage.h"

namespace svgdx {

inline PhiloxKey number_key(int64_t seed, int64_t offset) { return {uint64_t(seed), uint64_t(offset)}; }

// A key in a tensor (2), on the device of the op's first tensor.
struct TensorKey {
  Tensor words;
  PhiloxKey key;

  TensorKey(const char* op, const Tensor& tensor, int64_t offset, const char* name, const Tensor& first)
      : words(dense(tensor)), key{0, uint64_t(offset), nullptr} {
    check_dtype(op, "key", tensor, ScalarType::Long);
    check_shape(op, "key", tensor, {2}, "shape (2,)");
    SVGDX_CHECK(tensor.is_cuda() == first.is_cuda() && tensor.get_device_index() == first.get_device_index(), op,
                "key must be on the device of ", name, ", but is on another");
    key.words = data<int64_t>(words);
  }
};

}  // namespace svgdx
