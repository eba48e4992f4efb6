#include "compute/weight_matrix.hpp"

#include <cstring>

#include <fmt/format.h>

#include "compute/elementwise.hpp"

namespace troupe::compute {
namespace {

// A piece's products stay in the second cache until the sink has seen them.
constexpr std::size_t piece_bytes_max = 192 * limits::kib;
// Enough pieces for each thread that an unlucky one does not keep the others waiting.
constexpr std::uint32_t pieces_per_thread = 4;

}  // namespace

result<weight_matrix> weight_matrix::pack(std::shared_ptr<const product_kernel> kernel, std::span<const float> weight,
                                          std::uint32_t out, std::uint32_t in) {
  if (out == 0 || in == 0 || weight.size() != std::size_t{out} * in) {
    return fail(errc::invalid_request,
                fmt::format("a matrix of {} x {} with {} weights; check the tensors", out, in, weight.size()));
  }
  weight_matrix made;
  made.matrix_ = {.out = out, .in = in, .type = kernel->type(), .form = kernel->form()};
  made.kernel_ = std::move(kernel);
  const matrix_piece piece{
      .offset = 0, .type = dtype::f32, .out = out, .in = in, .first = 0, .stride_out = in, .stride_in = 1};
  std::byte* target = made.panels_.take(made.matrix_.bytes());
  for (std::uint32_t p = 0; p < made.panels(); ++p) {
    pack_panel(made.matrix_, p, piece, reinterpret_cast<const std::byte*>(weight.data()), target);
    target += made.matrix_.bytes_of(p);
  }
  return made;
}

std::size_t weight_matrix::row_bytes() const {
  return std::size_t{kernel_->row_stride(matrix_.inputs())} * bytes_per_element(matrix_.type);
}

std::size_t weight_matrix::room_for(std::uint32_t rows) const {
  // Whole pieces, and the last one with its padding.
  std::size_t whole = rows / limits::rows_per_product_max * limits::rows_per_product_max;
  std::size_t rest = rows - whole;
  return (whole + (rest == 0 ? 0 : padded_rows(static_cast<std::uint32_t>(rest)))) * row_bytes();
}

void weight_matrix::write_row(const float* x, std::byte* row) const {
  write_elements(x, 0, matrix_.in, row);
  clear_padding(row);
}

void weight_matrix::write_elements(const float* x, std::uint32_t first, std::uint32_t count, std::byte* row) const {
  std::byte* target = row + first * bytes_per_element(matrix_.type);
  if (matrix_.type == dtype::bf16) {
    narrow_to_bf16(x, count, target);
  } else {
    std::memcpy(target, x, count * sizeof(float));
  }
}

void weight_matrix::clear_padding(std::byte* row) const {
  std::size_t used = matrix_.in * bytes_per_element(matrix_.type);
  std::memset(row + used, 0, row_bytes() - used);
}

weight_matrix::shares weight_matrix::share_out(std::uint32_t rows, std::uint32_t threads) const {
  shares share{.rows = std::min(rows, limits::rows_per_product_max), .panels = panels()};
  if (threads > 1) share.panels = std::max(1U, panels() / (threads * pieces_per_thread));
  auto fitting = piece_bytes_max / (std::size_t{share.rows} * panel_width * sizeof(float));
  share.panels = std::min(share.panels, std::max(1U, static_cast<std::uint32_t>(fitting)));
  return share;
}

const std::byte* weight_matrix::panel(std::uint32_t number) const {
  return panels_.data() + std::size_t{number} * panel_width * matrix_.inputs() * bytes_per_element(matrix_.type);
}

void weight_matrix::multiply_run(const std::byte* x, std::uint32_t rows, const panel_run& run, float* products) const {
  auto end = run.begin + run.count;
  kernel_->multiply({.a = x,
                     .rows = rows,
                     .inputs = matrix_.inputs(),
                     .panels = panel(run.begin),
                     .panel_count = run.count,
                     .width = run.width,
                     .c = products,
                     .next = end < panels() ? panel(end) : nullptr});
}

}  // namespace troupe::compute
