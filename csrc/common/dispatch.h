// Calls this library's own ops through torch's dispatcher, so that autograd and tracing see them.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <tuple>

#include "common/backend.h"
#include "common/tensors.h"

namespace svgdx {

template <class... Results, class... Args>
auto call(const char* op, const Args&... args) {
  std::array<StableIValue, std::max(sizeof...(Args), sizeof...(Results))> stack{torch::stable::detail::from(args)...};
  const std::string full = std::string(SVGDX_TEXT(SVGDX_NAMESPACE) "::") + op;
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(full.c_str(), "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::unbox_to_tuple<Results...>(stack.data());
}

}  // namespace svgdx
