#include "common/cpu/multiply.h"

#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/cpu/product_kernel.h"
#include "common/parallel_blocks.h"
#include "common/storage.h"

namespace svgdx::cpu {
namespace {

// Multiply-adds from which oneDNN's longer call, 6 to 10 us, is worth it.
constexpr int64_t kLarge = 32 * 256 * 256;
// oneDNN must be faster than torch by this factor, well above the noise of a measurement.
constexpr double kFaster = 1.25;

bool is_dense(const Tensor& t) { return t.is_contiguous() || torch::stable::transpose(t, 0, 1).is_contiguous(); }

// a times b + bias as a new tensor. A strided weight that is not dense would take oneDNN's reference implementation.
Tensor by_onednn(const Tensor& a, const Tensor& b, const OptionalTensor& bias) {
  using torch::stable::detail::from;
  const Tensor weight = torch::stable::transpose(is_dense(b) ? b : torch::stable::contiguous(b), 0, 1);
  StableIValue stack[] = {from(a),
                          from(weight),
                          from(bias),
                          from(std::string("none")),
                          from(std::vector<double>()),
                          from(std::optional<std::string>(std::string()))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("mkldnn::_linear_pointwise", "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

void copy_rows(const Tensor& from, const Tensor& to) {
  const int64_t bytes = from.size(1) * int64_t(sizeof(float));
  for (int64_t r = 0; r < from.size(0); ++r) {
    memcpy(out<float>(to) + r * to.stride(0), data<float>(from) + r * from.size(1), bytes);
  }
}

// The function of a library that torch brings with it, or null.
template <class Function>
Function* of_torch(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

// While it lives, products on the calling thread are divided for one thread. Otherwise MKL and oneDNN divide them for
// as many threads as torch has, even where they get only one, and the order of the additions depends on their number.
class OneThread {
 public:
  OneThread() : mkl_(set_mkl(1)) { set_openmp(1); }
  ~OneThread() {
    set_mkl(mkl_);
    set_openmp(openmp_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  // A torch without MKL or OpenMP has no such symbols.
  static int set_mkl(int threads) {
    static auto* const set = of_torch<int(int)>("MKL_Set_Num_Threads_Local");
    return set ? set(threads) : 0;
  }
  static void set_openmp(int threads) {
    static auto* const set = of_torch<void(int)>("omp_set_num_threads");
    if (set) set(threads);
  }
  static int openmp_threads() {
    static auto* const threads = of_torch<int()>("omp_get_max_threads");
    return threads ? threads() : 1;
  }
  int openmp_ = openmp_threads(), mkl_;
};

// Numbers in [-1, 1) whose mantissas use all 24 bits.
Tensor probe_matrix(int64_t rows, int64_t cols, uint32_t state) {
  const Tensor t = torch::stable::empty({rows, cols}, ScalarType::Float);
  for (int64_t i = 0; i < rows * cols; ++i) {
    state = state * 1664525u + 1013904223u;
    out<float>(t)[i] = float(int32_t(state)) * 0x1p-31f;
  }
  return t;
}

template <class F>
double fastest_of(const F& f, double best) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

ProductRates measure() {
  constexpr int64_t kRows = 64, kInner = 256, kCols = 256;
  const Tensor a = probe_matrix(kRows, kInner, 1), weight = probe_matrix(kCols, kInner, 2);
  const Tensor b = torch::stable::transpose(weight, 0, 1),
               sums = torch::stable::empty({kRows, kCols}, ScalarType::Float);
  ProductRates rates;
  double torch_time = 1e30, onednn_time = 1e30;
  try {
    Tensor other = by_onednn(a, b, std::nullopt);
    for (int i = 0; i < 12; ++i) {
      torch_time = fastest_of([&] { aten("mm", "out", a, b, sums); }, torch_time);
      onednn_time = fastest_of([&] { other = by_onednn(a, b, std::nullopt); }, onednn_time);
    }
    // Entries are sums of 256 products of about 1/4; bfloat16 or TF32 would be wrong by 1e-2 or 2e-3.
    rates.exact = true;
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      if (!(std::abs(data<float>(other)[i] - data<float>(sums)[i]) < 1e-4f)) rates.exact = false;
    }
    rates.onednn = 2e-9 * kRows * kInner * kCols / onednn_time;
  } catch (const std::exception&) {  // this torch has no such op
    for (int i = 0; i < 12; ++i) torch_time = fastest_of([&] { aten("mm", "out", a, b, sums); }, torch_time);
  }
  rates.torch = 2e-9 * kRows * kInner * kCols / torch_time;
  return rates;
}

bool is_amd() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

ProductRoute choose_route() {
  const char* wanted = std::getenv("SVGDX_PRODUCTS");
  if (wanted != nullptr && *wanted != '\0') {
    if (std::strcmp(wanted, "torch") == 0) return ProductRoute::torch;
    if (std::strcmp(wanted, "onednn") == 0) return ProductRoute::onednn;
    throw std::runtime_error(std::string("SVGDX_PRODUCTS must be torch or onednn, but is '") + wanted + "'");
  }
  if (!is_amd()) return ProductRoute::torch;
  const ProductRates rates = measure_products();
  return rates.exact && rates.onednn > kFaster * rates.torch ? ProductRoute::onednn : ProductRoute::torch;
}

}  // namespace

ProductRates measure_products() {
  ProductRates rates;
  parallel_blocks(1, [&](int64_t begin, int64_t end) {
    if (begin < end) rates = measure();
  });
  return rates;
}

ProductRoute product_route() {
  static const ProductRoute route = choose_route();
  return route;
}

void multiply(const Tensor& a, const Tensor& b, const Tensor& out_rows, const OptionalTensor& bias, double slope) {
  const OneThread alone;
  const ScalarType type = a.scalar_type();
  const int64_t rows = a.size(0), width = b.size(1);
  const bool large = rows * a.size(1) * width >= kLarge && type == ScalarType::Float;
  const bool by_linear = large && product_route() == ProductRoute::onednn;
  if (by_linear) {
    copy_rows(by_onednn(a, b, bias), out_rows);
  } else {
    aten("mm", "out", a, b, out_rows);
  }
  if (slope == 1 && (by_linear || !bias)) return;
  with_storage(type, [&](auto storage) {
    using S = decltype(storage);
    using C = Compute<S>;
    const C* shift = by_linear || !bias ? nullptr : data<C>(*bias);
    SVGDX_ISA_CALL(product_epilogue, rows, width, out_rows.stride(0), shift, C(slope), out<S>(out_rows));
  });
}

}  // namespace svgdx::cpu
