// A matrix packed once, and its product with rows: y = x W^T with f32 sums, shared out over a team. What becomes of the
// products is the caller's: a sink takes them piece by piece (adds a bias, a residual, applies an activation) while
// they are still in the cache.
//
// Const calls from many threads are safe, each with its own team and scratch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "compute/packing.hpp"
#include "compute/product.hpp"
#include "compute/scratch.hpp"
#include "compute/work_team.hpp"

namespace troupe::compute {

class weight_matrix {
 public:
  weight_matrix() = default;
  // weight [out, in] row-major, kept in the kernel's type. invalid_request when the sizes do not fit. Throws
  // std::bad_alloc.
  [[nodiscard]] static result<weight_matrix> pack(std::shared_ptr<const product_kernel> kernel,
                                                  std::span<const float> weight, std::uint32_t out, std::uint32_t in);

  [[nodiscard]] std::uint32_t out() const { return matrix_.out; }
  [[nodiscard]] std::uint32_t in() const { return matrix_.in; }
  [[nodiscard]] std::uint32_t panels() const { return matrix_.panels(); }
  [[nodiscard]] std::size_t bytes() const { return panels_.bytes(); }

  // Rows of x are given in the kernel's type, row_bytes() apart; elements behind the first `in` of each are zero. The
  // buffer has room_for(rows) bytes, what lies behind the last row means nothing.
  [[nodiscard]] std::size_t row_bytes() const;
  [[nodiscard]] std::size_t room_for(std::uint32_t rows) const;
  // A row of f32 in that form. row has row_bytes().
  void write_row(const float* x, std::byte* row) const;
  // The same piece by piece: elements [first, first + count), and once for each row what stands behind the last.
  void write_elements(const float* x, std::uint32_t first, std::uint32_t count, std::byte* row) const;
  void clear_padding(std::byte* row) const;

  // Calls sink(row, column, values) for every row and piece of columns, values [count] f32, each product in exactly one
  // piece. Pieces come from any thread of the team, those of one column from one thread at a time.
  // internal with the text of what was thrown.
  template <class Sink>
  [[nodiscard]] result<void> multiply(work_team& team, const std::byte* x, std::uint32_t rows,
                                      std::vector<scratch_buffer>& scratch, Sink& sink) const {
    if (scratch.size() < team.threads()) scratch.resize(team.threads());
    auto share = share_out(rows, team.threads());
    std::uint32_t columns = (panels() + share.panels - 1) / share.panels;
    std::uint32_t stripes = (rows + share.rows - 1) / share.rows;
    auto task = [&](std::uint32_t number, std::uint32_t worker) {
      piece p{.row = number / columns * share.rows, .panel = number % columns * share.panels};
      p.rows = std::min(share.rows, rows - p.row);
      p.panels = std::min(share.panels, panels() - p.panel);
      multiply_piece(x, p, scratch[worker], sink);
    };
    return team.run(columns * stripes, false, task);
  }

  // The same on the calling thread, for callers without a team.
  template <class Sink>
  void multiply(const std::byte* x, std::uint32_t rows, scratch_buffer& scratch, Sink& sink) const {
    auto share = share_out(rows, 1);
    for (std::uint32_t row = 0; row < rows; row += share.rows) {
      multiply_piece(x, {.row = row, .rows = std::min(share.rows, rows - row), .panel = 0, .panels = panels()}, scratch,
                     sink);
    }
  }

 private:
  struct piece {
    std::uint32_t row;
    std::uint32_t rows{};
    std::uint32_t panel;
    std::uint32_t panels{};
  };
  struct shares {
    std::uint32_t rows;  // of one piece
    std::uint32_t panels;
  };

  [[nodiscard]] shares share_out(std::uint32_t rows, std::uint32_t threads) const;
  [[nodiscard]] const std::byte* panel(std::uint32_t number) const;

  template <class Sink>
  void multiply_piece(const std::byte* x, const piece& p, scratch_buffer& scratch, Sink& sink) const {
    auto* products = reinterpret_cast<float*>(
        scratch.take(std::size_t{padded_rows(p.rows)} * p.panels * panel_width * sizeof(float)));
    for_each_run(matrix_, p.panel, p.panel + p.panels, p.panels, [&](const panel_run& run) {
      multiply_run(x + p.row * row_bytes(), p.rows, run, products);
      std::uint32_t column = run.begin * panel_width;
      std::size_t stride = std::size_t{run.count} * run.width;
      std::size_t used = std::min<std::size_t>(stride, matrix_.out - column);
      for (std::uint32_t r = 0; r < p.rows; ++r) sink(p.row + r, column, std::span{products + r * stride, used});
    });
  }
  void multiply_run(const std::byte* x, std::uint32_t rows, const panel_run& run, float* products) const;

  std::shared_ptr<const product_kernel> kernel_;
  packed_matrix matrix_;
  scratch_buffer panels_;
};

}  // namespace troupe::compute
