// The form in which weights lie in memory: panels of up to 64 outputs, one behind the other, each with all its inputs.
// The forms are blocked layouts that oneDNN knows by name, so that its products and our own read the same bytes, and
// any run of neighbouring panels is a packed matrix of its own.
//
//   k_pairs (BA16a64b2a)   panel: [inputs / 2][outputs][2]     bf16 instructions (AMX, AVX-512) take two inputs at once
//   k_major (BA16a64b)     panel: [inputs][outputs]            AVX-512 f32
//   rows    (ba)           panel: [outputs][inputs]            everything older
//
// The last panel is as narrow as a multiple of 16 allows; inputs are padded to `input_unit`. Padding is zero.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/tensor.hpp"
#include "compute/bundle_plan.hpp"
#include "model/description.hpp"
#include "model/quantised.hpp"

namespace troupe::compute {

inline constexpr std::uint32_t panel_width = 64;
inline constexpr std::uint32_t narrow_unit = 16;

enum class panel_form : std::uint8_t { rows, k_major, k_pairs };

[[nodiscard]] constexpr std::uint32_t input_unit(panel_form form) { return form == panel_form::k_pairs ? 32 : 16; }

// A matrix [out, in] cut into panels.
struct packed_matrix {
  std::uint32_t out{};
  std::uint32_t in{};
  dtype type{dtype::f32};  // f32 or bf16
  panel_form form{panel_form::rows};

  [[nodiscard]] std::uint32_t panels() const { return (out + panel_width - 1) / panel_width; }
  [[nodiscard]] std::uint32_t inputs() const {
    return (in + input_unit(form) - 1) / input_unit(form) * input_unit(form);
  }
  // Outputs of one panel, padding included.
  [[nodiscard]] std::uint32_t width(std::uint32_t panel) const;
  // Of all panels: `out` rounded up to narrow_unit.
  [[nodiscard]] std::uint32_t outputs() const { return (out + narrow_unit - 1) / narrow_unit * narrow_unit; }
  [[nodiscard]] std::size_t bytes_of(std::uint32_t panel) const;
  [[nodiscard]] std::size_t bytes() const;
};

// The panels [begin, end) of a matrix come as runs of up to `longest` full ones and, at its end, one that may be
// narrower.
struct panel_run {
  std::uint32_t begin;
  std::uint32_t count;
  std::uint32_t width;
};

template <class Visit>
void for_each_run(const packed_matrix& matrix, std::uint32_t begin, std::uint32_t end, std::uint32_t longest,
                  Visit visit) {
  bool narrow = matrix.width(end - 1) != panel_width;
  std::uint32_t full_end = narrow ? end - 1 : end;
  for (std::uint32_t panel = begin; panel < full_end; panel += longest) {
    visit(panel_run{.begin = panel, .count = std::min(longest, full_end - panel), .width = panel_width});
  }
  if (narrow) visit(panel_run{.begin = end - 1, .count = 1, .width = matrix.width(end - 1)});
}

// Fills one panel from a stored matrix, converting elements to matrix.type; quantised ones in f32 first.
// @pre piece.out == matrix.out, piece.in == matrix.in; target has matrix.bytes_of(panel).
void pack_panel(const packed_matrix& matrix, std::uint32_t panel, const matrix_piece& piece, const std::byte* bundle,
                std::byte* target);
// The inverse: writes the elements back where they stood, in the stored type.
// @pre as pack_panel, and is_exact(piece.type, matrix.type)
void unpack_panel(const packed_matrix& matrix, std::uint32_t panel, const matrix_piece& piece, const std::byte* source,
                  std::byte* bundle);

// Can what was stored be made again from what is packed? Quantised weights cannot: numbers and scales are multiplied.
[[nodiscard]] constexpr bool is_exact(dtype stored, dtype packed) {
  return stored == packed || (packed == dtype::f32 && model::is_plain(stored));
}

// One expert in a slot: gate and up panels in turn (so that a run of them is one product), down panels, then the biases
// as f32, padded like the outputs.
//
//   | gate 0 | up 0 | gate 1 | up 1 | ... | down 0 | down 1 | ... | gate bias | up bias | down bias |
struct packed_expert {
  model::expert_shape shape;
  packed_matrix first;   // gate and up, each [width, hidden]
  packed_matrix second;  // down [hidden, width]

  [[nodiscard]] static packed_expert of(const model::expert_shape& shape, dtype type, panel_form form);

  [[nodiscard]] std::uint32_t parts() const { return model::is_gated(shape.act) ? 2 : 1; }  // matrices in `first`
  [[nodiscard]] std::size_t first_offset(std::uint32_t panel) const;
  [[nodiscard]] std::size_t second_offset(std::uint32_t panel) const;
  [[nodiscard]] std::size_t gate_bias_offset() const { return second_offset(second.panels()); }
  [[nodiscard]] std::size_t up_bias_offset() const;
  [[nodiscard]] std::size_t down_bias_offset() const;
  [[nodiscard]] std::size_t bytes() const;

  // @pre plan fits `shape`; slot has bytes()
  void pack(const bundle_plan& plan, const std::byte* bundle, std::byte* slot) const;
  // @pre every weight is_exact
  void unpack(const bundle_plan& plan, const std::byte* slot, std::byte* bundle) const;
};

}  // namespace troupe::compute
