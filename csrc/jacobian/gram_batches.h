// The batch rows of the Gram route (jacobian/gram.h), a few at a time.
#pragma once

#include "common/beta.h"
#include "common/particles.h"
#include "jacobian/gram.h"

namespace svgdx {

// The Gram route of jacobian/gram.h is taken for a few batch rows at a time.
struct GramBatches {
  const Particles& p;
  Tensor beta;  // (batch, 1, 1)
  GramBatches(const Particles& p, const Tensor& bandwidth) : p(p) {
    const auto number = [&](const Sizes& sizes, double value) {
      return torch::stable::full(sizes, value, ScalarType::Double, std::nullopt, p.x.device());
    };
    if (bandwidth.dim() == 0 && bandwidth.is_cpu()) {
      beta = number({p.batch, 1, 1}, beta_of_sigma(read_cpu(bandwidth, 0), kLargestSquarableBeta));
      return;
    }
    const Tensor sigma = aten("expand", "", torch::stable::reshape(as_type(bandwidth, ScalarType::Double), {-1, 1, 1}),
                              torch::headeronly::IntHeaderOnlyArrayRef({p.batch, 1, 1}), false);
    const Tensor inverse = aten("reciprocal", "", mul(sigma, sigma)), log = aten("log", "", sigma);
    // Plus zero, or NaN for a bandwidth that is not positive, which only a GPU lets pass to here.
    beta = torch::stable::subtract(aten("minimum", "", inverse, number({}, kLargestSquarableBeta)),
                                   torch::stable::subtract(log, log));
  }
  // The batch rows whose (M, M) matrices have at most `numbers` elements.
  int64_t step(int64_t numbers) const { return std::max<int64_t>(1, numbers / (p.count * p.count)); }
  Tensor part(const Tensor& t, int64_t begin, int64_t n, int64_t width) const {
    Tensor flat = torch::stable::reshape(t, {p.batch, p.count, width});
    return torch::stable::narrow(flat, 0, begin, n);
  }
  OptionalTensor part(const OptionalTensor& t, int64_t begin, int64_t n) const {
    return t ? OptionalTensor(part(*t, begin, n, p.dim)) : std::nullopt;
  }
  Tensor beta_of(int64_t begin, int64_t n) const {
    Tensor all = beta;
    return torch::stable::narrow(all, 0, begin, n);
  }
  void write(const Tensor& all, int64_t begin, int64_t n, int64_t width, const Tensor& value) const {
    Tensor flat = torch::stable::view(all, {p.batch, p.count, width});
    Tensor target = torch::stable::narrow(flat, 0, begin, n);
    torch::stable::copy_(target, value);
  }
};

}  // namespace svgdx
