// Turns tensors into the plain arrays that backends take: compute types, contiguity, per-batch numbers, aten calls.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "common/check.h"
#include "common/per_batch.h"

namespace svgdx {

using OptionalTensor = std::optional<Tensor>;

// bfloat16 and float16 inputs are computed in float32.
inline ScalarType compute_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor as_type(const Tensor& t, ScalarType type) {
  return t.scalar_type() == type ? t : torch::stable::to(t, type);
}

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor as_dense(const Tensor& t, ScalarType type) { return dense(as_type(t, type)); }

inline OptionalTensor as_dense(const OptionalTensor& t, ScalarType type) {
  return t ? OptionalTensor(as_dense(*t, type)) : std::nullopt;
}

inline Tensor new_empty(const Tensor& like, const Sizes& sizes, ScalarType type) {
  // torch::stable::new_empty passes through the dispatcher twice, which costs as much as a small op.
  Sizes strides(sizes.size());
  int64_t step = 1;
  for (size_t i = sizes.size(); i-- > 0; step *= std::max<int64_t>(1, sizes[i])) strides[i] = step;
  int32_t device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype, device, index, &handle));
  return Tensor(handle);
}

inline Tensor new_zeros(const Tensor& like, const Sizes& sizes, ScalarType type) {
  return torch::stable::new_zeros(like, sizes, type);
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
const T* data(const OptionalTensor& t) {
  return t ? data<T>(*t) : nullptr;
}
template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
T* out(const OptionalTensor& t) {
  return t ? out<T>(*t) : nullptr;
}

template <class... Args>
Tensor aten(const char* name, const char* overload, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{torch::stable::detail::from(args)...};
  const std::string full = std::string("aten::") + name;
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(full.c_str(), overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}
inline Tensor mul(const Tensor& a, const Tensor& b) { return aten("mul", "Tensor", a, b); }

inline double read_cpu(const Tensor& t, int64_t index) {
  const void* p = t.const_data_ptr();
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return static_cast<const float*>(p)[index];
    case ScalarType::Double:
      return static_cast<const double*>(p)[index];
    case ScalarType::Half:
      return static_cast<const torch::headeronly::Half*>(p)[index];
    default:
      return static_cast<const torch::headeronly::BFloat16*>(p)[index];
  }
}

// A bandwidth or step size: one number, or one per batch row, on the device and in the compute type of x.
template <class T>
class Numbers {
 public:
  Numbers(const char* op, const char* name, const Tensor& t, const Tensor& x, const Sizes& lead, bool positive) {
    check_floating(op, name, t);
    const bool scalar = t.dim() == 0;
    const Sizes sizes = sizes_of(t);
    SVGDX_CHECK(scalar || sizes == lead, op, name, " must be a number, 0-d or have the leading shape of x, ",
                text(lead), ", but has ", text(sizes));
    if (scalar && t.is_cpu()) {
      view_ = {nullptr, 0, T(read_cpu(t, 0)), true};
    } else {
      check_device(op, name, t, x);
      keep_ = as_dense(t, kType);
      view_ = {data<T>(*keep_), scalar ? 0 : 1};
    }
    if (!positive || (keep_ && x.is_cuda())) return;  // reading a CUDA tensor would synchronise
    const int64_t count = keep_ ? keep_->numel() : 1;
    for (int64_t i = 0; i < count; ++i) {
      const T value = view_[i];
      SVGDX_CHECK(!(value <= T(0)), op, name, " must be positive, but is ", value, " at index ", i);
    }
  }
  Numbers(const Numbers&) = delete;
  PerBatch<T> view() const { return view_; }

 private:
  static constexpr ScalarType kType = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  std::optional<Tensor> keep_;
  PerBatch<T> view_;
};

}  // namespace svgdx
