// The dense product: one packed matrix, rows in blocks, on the calling thread.
#include <algorithm>
#include <cassert>
#include <cstring>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/device.hpp"
#include "compute/elementwise.hpp"
#include "compute/packing.hpp"
#include "compute/product.hpp"
#include "compute/scratch.hpp"

namespace troupe::compute {

struct dense_product::state {
  std::shared_ptr<const product_kernel> kernel;
  packed_matrix matrix;
  scratch_buffer panels;
  std::vector<float> bias;
};

namespace {

// Rows at a time: their inputs and the panel stay in the second cache.
constexpr std::uint32_t rows_per_block = 64;

struct thread_buffers {
  scratch_buffer inputs;
  scratch_buffer outputs;
};

}  // namespace

dense_product::dense_product(std::unique_ptr<state> s) : state_(std::move(s)) {}
dense_product::dense_product(dense_product&&) noexcept = default;
dense_product& dense_product::operator=(dense_product&&) noexcept = default;
dense_product::~dense_product() = default;

result<dense_product> dense_product::make(std::span<const float> weight, std::span<const float> bias, std::uint32_t out,
                                          std::uint32_t in, dtype type) {
  if (out == 0 || in == 0 || weight.size() != std::size_t{out} * in || (!bias.empty() && bias.size() != out)) {
    return fail(errc::invalid_request,
                fmt::format("a dense product of {} x {} with {} weights and {} biases; check the tensors", out, in,
                            weight.size(), bias.size()));
  }
  auto kernel = make_product_kernel(type);
  if (!kernel) return fail(kernel.error());
  auto made = std::make_unique<state>();
  made->kernel = *kernel;
  made->matrix = {.out = out, .in = in, .type = type, .form = (*kernel)->form()};
  made->bias.assign(bias.begin(), bias.end());
  const matrix_piece piece{
      .offset = 0, .type = dtype::f32, .out = out, .in = in, .first = 0, .stride_out = in, .stride_in = 1};
  std::byte* target = made->panels.take(made->matrix.bytes());
  for (std::uint32_t p = 0; p < made->matrix.panels(); ++p) {
    pack_panel(made->matrix, p, piece, reinterpret_cast<const std::byte*>(weight.data()), target);
    target += made->matrix.bytes_of(p);
  }
  return dense_product(std::move(made));
}

namespace {

// Rows in the kernel's type, `stride` bytes apart, padded with zeros.
void copy_rows(const float* x, std::uint32_t rows, const packed_matrix& matrix, std::size_t stride, std::byte* target) {
  std::size_t used = matrix.in * bytes_per_element(matrix.type);
  for (std::uint32_t r = 0; r < rows; ++r) {
    std::byte* row = target + r * stride;
    if (matrix.type == dtype::bf16) {
      narrow_to_bf16(x + std::size_t{r} * matrix.in, matrix.in, row);
    } else {
      std::memcpy(row, x + std::size_t{r} * matrix.in, used);
    }
    std::memset(row + used, 0, stride - used);
  }
}

}  // namespace

void dense_product::run(const float* x, std::uint32_t rows, float* y) const {
  thread_local thread_buffers buffers;
  const auto& matrix = state_->matrix;
  std::size_t element = bytes_per_element(matrix.type);
  for (std::uint32_t begin = 0; begin < rows; begin += rows_per_block) {
    std::uint32_t count = std::min(rows_per_block, rows - begin);
    std::size_t room = padded_rows(count);
    std::size_t stride = state_->kernel->row_stride(matrix.inputs());
    std::byte* a = buffers.inputs.take(room * stride * element);
    auto* c = reinterpret_cast<float*>(buffers.outputs.take(room * matrix.outputs() * sizeof(float)));
    copy_rows(x + std::size_t{begin} * matrix.in, count, matrix, stride * element, a);
    for_each_run(matrix, 0, matrix.panels(), matrix.panels(), [&](const panel_run& run) {
      std::size_t column = std::size_t{run.begin} * panel_width;
      state_->kernel->multiply({.a = a,
                                .rows = count,
                                .inputs = matrix.inputs(),
                                .panels = state_->panels.data() + column * matrix.inputs() * element,
                                .panel_count = run.count,
                                .width = run.width,
                                .c = c});
      std::size_t outputs = std::size_t{run.count} * run.width;
      std::size_t used = std::min(outputs, matrix.out - column);
      for (std::uint32_t r = 0; r < count; ++r) {
        float* target = y + (std::size_t{begin} + r) * matrix.out + column;
        std::memcpy(target, c + r * outputs, used * sizeof(float));
        if (state_->bias.empty()) continue;
        for (std::size_t o = 0; o < used; ++o) target[o] += state_->bias[column + o];
      }
    });
  }
}

}  // namespace troupe::compute
