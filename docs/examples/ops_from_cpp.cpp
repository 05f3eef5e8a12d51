// SVGD in C++: moves particles, read from the standard input, towards a Gaussian N(0, I) by svgdx::svgd_phi.
//
// Usage: ops_from_cpp LIBRARY M D STEPS STEP_SIZE < particles > particles, both M D doubles in row-major order.
// The stable interface of PyTorch compiles in seconds, and the program runs with later versions of PyTorch too.
#include <dlfcn.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

using torch::stable::Tensor;

// Bandwidth of the RBF kernel.
constexpr double BANDWIDTH = 1.0;

// The Stein direction of particles (M, D) whose score is also (M, D), by the dispatcher of PyTorch.
Tensor svgd_phi(const Tensor& x, const Tensor& score) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 3> stack{from(x), from(score), from(BANDWIDTH)};
  STD_TORCH_CHECK(torch_call_dispatcher("svgdx::svgd_phi", "number", stack.data(), TORCH_ABI_VERSION) == 0,
                  "svgdx::svgd_phi failed; see the message above");
  return to<Tensor>(stack[0]);
}

int main(int argc, char** argv) try {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s LIBRARY M D STEPS STEP_SIZE < particles > particles\n", argv[0]);
    return 2;
  }
  if (dlopen(argv[1], RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  const long m = std::atol(argv[2]), d = std::atol(argv[3]), steps = std::atol(argv[4]);
  const double step_size = std::atof(argv[5]);
  std::vector<double> x(m * d), score(m * d);
  if (std::fread(x.data(), sizeof(double), x.size(), stdin) != x.size()) {
    std::fprintf(stderr, "the standard input has fewer than M D doubles\n");
    return 1;
  }
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  const auto view = [&](std::vector<double>& values) {
    return torch::stable::from_blob(values.data(), {m, d}, {d, 1}, cpu, torch::headeronly::ScalarType::Double);
  };
  for (long step = 0; step < steps; ++step) {
    for (size_t i = 0; i < x.size(); ++i) score[i] = -x[i];
    const Tensor phi = svgd_phi(view(x), view(score));
    const double* direction = static_cast<const double*>(phi.const_data_ptr());
    for (size_t i = 0; i < x.size(); ++i) x[i] += step_size * direction[i];
  }
  return std::fwrite(x.data(), sizeof(double), x.size(), stdout) == x.size() ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
