// The dense product: a weight matrix and a bias, rows in blocks, on the calling thread.
#include <algorithm>

#include <fmt/format.h>

#include "compute/device.hpp"
#include "compute/weight_matrix.hpp"

namespace troupe::compute {

struct dense_product::state {
  weight_matrix matrix;
  std::vector<float> bias;
};

namespace {

// Rows at a time: their inputs and a panel stay in the second cache.
constexpr std::uint32_t rows_per_block = 64;

struct thread_buffers {
  scratch_buffer inputs;
  scratch_buffer products;
};

}  // namespace

dense_product::dense_product(std::unique_ptr<state> s) : state_(std::move(s)) {}
dense_product::dense_product(dense_product&&) noexcept = default;
dense_product& dense_product::operator=(dense_product&&) noexcept = default;
dense_product::~dense_product() = default;

result<dense_product> dense_product::make(std::span<const float> weight, std::span<const float> bias, std::uint32_t out,
                                          std::uint32_t in, dtype type) {
  if (!bias.empty() && bias.size() != out) {
    return fail(errc::invalid_request,
                fmt::format("a dense product of {} x {} with {} biases; check the tensors", out, in, bias.size()));
  }
  auto kernel = make_product_kernel(type);
  if (!kernel) return fail(kernel.error());
  auto matrix = weight_matrix::pack(*kernel, weight, out, in);
  if (!matrix) return fail(matrix.error());
  return dense_product(std::make_unique<state>(state{std::move(*matrix), {bias.begin(), bias.end()}}));
}

void dense_product::run(const float* x, std::uint32_t rows, float* y) const {
  thread_local thread_buffers buffers;
  const auto& matrix = state_->matrix;
  for (std::uint32_t begin = 0; begin < rows; begin += rows_per_block) {
    std::uint32_t count = std::min(rows_per_block, rows - begin);
    std::byte* inputs = buffers.inputs.take(matrix.room_for(rows_per_block));
    for (std::uint32_t r = 0; r < count; ++r) {
      matrix.write_row(x + (std::size_t{begin} + r) * matrix.in(), inputs + r * matrix.row_bytes());
    }
    auto store = [&](std::uint32_t row, std::uint32_t column, std::span<const float> products) {
      float* target = y + (std::size_t{begin} + row) * matrix.out() + column;
      std::ranges::copy(products, target);
      if (state_->bias.empty()) return;
      for (std::size_t o = 0; o < products.size(); ++o) target[o] += state_->bias[column + o];
    };
    matrix.multiply(inputs, count, buffers.products, store);
  }
}

}  // namespace troupe::compute
