#include "bench/gpu_layer/card_limits.hpp"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <functional>

#include <fmt/format.h>

namespace troupe::bench {
namespace {

constexpr int product_size = 8192;
constexpr std::size_t copy_bytes_max = std::size_t{1} << 30;

// Remembers the first failure; everything behind it is skipped.
class card {
 public:
  explicit card(std::uint32_t index) {
    note(cudaSetDevice(static_cast<int>(index)), "choosing the device");
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    note(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for memory");
    bytes_ = std::min(copy_bytes_max, free_bytes / 4);
    if (bytes_ < 2 * matrix_bytes) trouble_ = fmt::format("{} free bytes are too few to measure the card", free_bytes);
    for (auto& piece : pieces_) {
      if (trouble_.empty()) note(cudaMalloc(&piece, bytes_), "taking memory");
      if (trouble_.empty()) note(cudaMemset(piece, 0, bytes_), "clearing memory");
    }
    for (auto& event : events_) note(cudaEventCreate(&event), "making an event");
    if (trouble_.empty()) note(cublasCreate(&blas_), "starting cuBLAS");
  }
  ~card() {
    if (blas_ != nullptr) static_cast<void>(cublasDestroy(blas_));
    for (auto* event : events_) static_cast<void>(cudaEventDestroy(event));
    for (auto* piece : pieces_) static_cast<void>(cudaFree(piece));
  }
  card(const card&) = delete;
  card& operator=(const card&) = delete;

  double copy_speed() {
    return 2.0 * static_cast<double>(bytes_) / median_seconds([&] {
             note(cudaMemcpyAsync(pieces_[1], pieces_[0], bytes_, cudaMemcpyDeviceToDevice, nullptr), "copying");
           });
  }

  // Zeros would draw less power than weights do, and a card that draws less runs faster.
  double product_speed() {
    fill();
    const float one = 1.0F;
    const float zero = 0.0F;
    auto* left = static_cast<std::byte*>(pieces_[0]);
    const double n = product_size;
    return 2 * n * n * n / median_seconds([&] {
             note(cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, product_size, product_size, product_size, &one, left,
                               CUDA_R_16BF, product_size, left + matrix_bytes, CUDA_R_16BF, product_size, &zero,
                               pieces_[1], CUDA_R_16BF, product_size, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                  "one large product");
           });
  }

  [[nodiscard]] const std::string& trouble() const { return trouble_; }

 private:
  static constexpr std::size_t matrix_bytes = std::size_t{product_size} * product_size * 2;

  void fill() {
    std::vector<std::uint16_t> values(2 * matrix_bytes / sizeof(std::uint16_t));
    std::uint32_t state = 1;
    for (auto& value : values) {
      state = state * 1664525U + 1013904223U;
      value = static_cast<std::uint16_t>((state >> 31 << 15) | (0x3c00U + (state >> 16 & 0x1ffU)));  // +-[2^-7, 2^-3)
    }
    if (trouble_.empty()) note(cudaMemcpy(pieces_[0], values.data(), 2 * matrix_bytes, cudaMemcpyDefault), "copying");
  }

  double median_seconds(const std::function<void()>& work) {
    std::array<float, 20> milliseconds{};
    for (std::size_t round = 0; round < milliseconds.size() + 3 && trouble_.empty(); ++round) {
      note(cudaEventRecord(events_[0]), "timing");
      work();
      note(cudaEventRecord(events_[1]), "timing");
      note(cudaEventSynchronize(events_[1]), "timing");
      // The first three warm up.
      if (round >= 3) note(cudaEventElapsedTime(&milliseconds[round - 3], events_[0], events_[1]), "timing");
    }
    std::ranges::sort(milliseconds);
    return milliseconds[milliseconds.size() / 2] * 1e-3;
  }

  void note(cudaError_t code, const char* what) {
    if (code != cudaSuccess && trouble_.empty()) trouble_ = fmt::format("{}: {}", what, cudaGetErrorString(code));
  }
  void note(cublasStatus_t code, const char* what) {
    if (code != CUBLAS_STATUS_SUCCESS && trouble_.empty()) {
      trouble_ = fmt::format("{}: {}", what, cublasGetStatusString(code));
    }
  }

  std::size_t bytes_{};
  std::array<void*, 2> pieces_{};
  std::array<cudaEvent_t, 2> events_{};
  cublasHandle_t blas_{};
  std::string trouble_;
};

}  // namespace

result<card_limits> measure_card(std::uint32_t index) {
  card measured(index);
  const card_limits limits{measured.copy_speed(), measured.product_speed()};
  if (!measured.trouble().empty()) return fail(errc::internal, measured.trouble());
  return limits;
}

}  // namespace troupe::bench
