#include "compute/packing.hpp"

#include <emmintrin.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>
#include <vector>

namespace troupe::compute {
namespace {

// Where input i of output c stands in a panel, in elements.
std::size_t place(panel_form form, std::size_t width, std::size_t inputs, std::size_t c, std::size_t i) {
  switch (form) {
    case panel_form::rows:
      return c * inputs + i;
    case panel_form::k_major:
      return i * width + c;
    case panel_form::k_pairs:
      return (i / 2 * width + c) * 2 + i % 2;
  }
  return 0;
}

// The stored outputs of one panel: input i of the panel's output c stands at index c * stride_out + i * stride_in
// behind the first one's byte.
struct panel_rows {
  std::size_t begin{};  // byte
  dtype type{dtype::f32};
  std::size_t stride_out{};
  std::size_t stride_in{};

  static panel_rows of(std::uint32_t panel, const matrix_piece& piece) {
    const std::size_t first = piece.index(std::size_t{panel} * panel_width, 0);
    return {piece.offset + first * bytes_per_element(piece.type), piece.type, piece.stride_out, piece.stride_in};
  }
};

// Outputs that the panel uses.
std::size_t used_outputs(const packed_matrix& matrix, std::uint32_t panel) {
  return std::min<std::size_t>(matrix.width(panel), matrix.out - std::size_t{panel} * panel_width);
}

template <class Visit>
void for_each_element(const packed_matrix& matrix, std::uint32_t panel, const panel_rows& rows, Visit visit) {
  std::size_t width = matrix.width(panel);
  std::size_t used = used_outputs(matrix, panel);
  std::size_t inputs = matrix.inputs();
  // 32 inputs of all outputs at a time: both sides of the transposition stay in the first cache.
  for (std::size_t begin = 0; begin < matrix.in; begin += 32) {
    std::size_t end = std::min<std::size_t>(begin + 32, matrix.in);
    for (std::size_t c = 0; c < used; ++c) {
      for (std::size_t i = begin; i < end; ++i) {
        visit(c * rows.stride_out + i * rows.stride_in, place(matrix.form, width, inputs, c, i));
      }
    }
  }
}

template <class Value>
Value load(const std::byte* base, std::size_t index) {
  Value value;
  std::memcpy(&value, base + index * sizeof value, sizeof value);
  return value;
}

template <class Value>
void store(std::byte* base, std::size_t index, Value value) {
  std::memcpy(base + index * sizeof value, &value, sizeof value);
}

using half = std::uint16_t;

__m128i load_words(const std::byte* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
void store_words(std::byte* at, __m128i words) { _mm_storeu_si128(reinterpret_cast<__m128i*>(at), words); }

// Transposes 4 x 4 words of 32 bits; strides in bytes.
void transpose_words(const std::byte* from, std::size_t from_stride, std::byte* to, std::size_t to_stride) {
  const __m128i a = load_words(from), b = load_words(from + from_stride);
  const __m128i c = load_words(from + 2 * from_stride), d = load_words(from + 3 * from_stride);
  const __m128i ab_low = _mm_unpacklo_epi32(a, b), ab_high = _mm_unpackhi_epi32(a, b);
  const __m128i cd_low = _mm_unpacklo_epi32(c, d), cd_high = _mm_unpackhi_epi32(c, d);
  store_words(to, _mm_unpacklo_epi64(ab_low, cd_low));
  store_words(to + to_stride, _mm_unpackhi_epi64(ab_low, cd_low));
  store_words(to + 2 * to_stride, _mm_unpacklo_epi64(ab_high, cd_high));
  store_words(to + 3 * to_stride, _mm_unpackhi_epi64(ab_high, cd_high));
}

// A panel whose elements keep their type is a transposition of 32-bit words: single f32 in k_major, pairs of bf16 in
// k_pairs. That is ten times as fast as element by element, and most checkpoints and devices have it.
struct word_panel {
  std::size_t outputs;       // that the panel uses
  std::size_t words;         // of one output
  std::size_t first;         // byte in the bundle where the panel's first output begins
  std::size_t out_stride;    // bytes from output to output in the bundle
  std::size_t panel_stride;  // bytes from word to word of one output in the panel

  static std::optional<word_panel> of(const packed_matrix& matrix, std::uint32_t panel, const panel_rows& rows) {
    const bool is_words = (matrix.type == dtype::f32 && matrix.form == panel_form::k_major) ||
                          (matrix.type == dtype::bf16 && matrix.form == panel_form::k_pairs);
    if (!is_words || rows.type != matrix.type || rows.stride_in != 1) return std::nullopt;
    const std::size_t element = bytes_per_element(matrix.type), per_word = sizeof(float) / element;
    const word_panel made{.outputs = used_outputs(matrix, panel),
                          .words = matrix.in / per_word,
                          .first = rows.begin,
                          .out_stride = rows.stride_out * element,
                          .panel_stride = matrix.width(panel) * sizeof(float)};
    if (matrix.in % (4 * per_word) != 0 || made.outputs % 4 != 0) return std::nullopt;
    return made;
  }

  // visit(byte in the bundle, byte in the panel) for each 4 x 4 words: four outputs at a time, one cache line of each,
  // since outputs often lie a multiple of 4 KiB apart and would push each other out of the first cache.
  template <class Visit>
  void for_each_block(Visit visit) const {
    constexpr std::size_t line = 16;
    for (std::size_t begin = 0; begin < words; begin += line) {
      for (std::size_t c = 0; c < outputs; c += 4) {
        for (std::size_t w = begin; w < std::min(begin + line, words); w += 4) {
          visit(first + c * out_stride + w * sizeof(float), w * panel_stride + c * sizeof(float));
        }
      }
    }
  }
};

// From rows that are plain. @pre as pack_panel
void pack_rows(const packed_matrix& matrix, std::uint32_t panel, const panel_rows& rows, const std::byte* stored,
               std::byte* target) {
  const std::byte* from = stored + rows.begin;
  const auto words = word_panel::of(matrix, panel, rows);
  const bool is_full = words && words->outputs == matrix.width(panel) && matrix.in == matrix.inputs();
  if (!is_full) std::memset(target, 0, matrix.bytes_of(panel));
  if (words) {
    return words->for_each_block([&](std::size_t stored_byte, std::size_t packed) {
      transpose_words(stored + stored_byte, words->out_stride, target + packed, words->panel_stride);
    });
  }
  auto each = [&](auto convert_element) {
    for_each_element(matrix, panel, rows, [&](std::size_t s, std::size_t t) { convert_element(s, t); });
  };
  if (rows.type == matrix.type) {
    if (matrix.type == dtype::f32) return each([&](auto s, auto t) { store(target, t, load<float>(from, s)); });
    return each([&](auto s, auto t) { store(target, t, load<half>(from, s)); });
  }
  auto read = [&](std::size_t s) {
    if (rows.type == dtype::f32) return load<float>(from, s);
    auto bits = load<half>(from, s);
    return rows.type == dtype::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  };
  if (matrix.type == dtype::f32) return each([&](auto s, auto t) { store(target, t, read(s)); });
  each([&](auto s, auto t) { store(target, t, f32_to_bf16(read(s))); });
}

// The panel's outputs, [used_outputs, in] in matrix.type: what a plain bundle of the device's own type would hold.
std::vector<std::byte> dequantise_panel(const packed_matrix& matrix, std::uint32_t panel, const matrix_piece& piece,
                                        const std::byte* bundle) {
  const std::size_t row_bytes = matrix.in * bytes_per_element(matrix.type);
  const std::size_t used = used_outputs(matrix, panel);
  std::vector<std::byte> rows(used * row_bytes);
  std::vector<float> row(matrix.in);
  for (std::size_t c = 0; c < used; ++c) {
    read_row(piece, bundle, std::size_t{panel} * panel_width + c, row.data());
    convert(dtype::f32, reinterpret_cast<const std::byte*>(row.data()), matrix.type, rows.data() + c * row_bytes,
            matrix.in);
  }
  return rows;
}

}  // namespace

std::uint32_t packed_matrix::width(std::uint32_t panel) const {
  return std::min(panel_width, outputs() - panel * panel_width);
}

std::size_t packed_matrix::bytes_of(std::uint32_t panel) const {
  return std::size_t{width(panel)} * inputs() * bytes_per_element(type);
}

std::size_t packed_matrix::bytes() const { return std::size_t{outputs()} * inputs() * bytes_per_element(type); }

void pack_panel(const packed_matrix& matrix, std::uint32_t panel, const matrix_piece& piece, const std::byte* bundle,
                std::byte* target) {
  assert(piece.out == matrix.out && piece.in == matrix.in);
  if (!model::is_quantised(piece.type)) return pack_rows(matrix, panel, panel_rows::of(panel, piece), bundle, target);
  const auto rows = dequantise_panel(matrix, panel, piece, bundle);
  pack_rows(matrix, panel, {.begin = 0, .type = matrix.type, .stride_out = matrix.in, .stride_in = 1}, rows.data(),
            target);
}

void unpack_panel(const packed_matrix& matrix, std::uint32_t panel, const matrix_piece& piece, const std::byte* source,
                  std::byte* bundle) {
  assert(is_exact(piece.type, matrix.type));
  const auto rows = panel_rows::of(panel, piece);
  std::byte* to = bundle + rows.begin;
  if (const auto words = word_panel::of(matrix, panel, rows)) {
    return words->for_each_block([&](std::size_t stored, std::size_t packed) {
      transpose_words(source + packed, words->panel_stride, bundle + stored, words->out_stride);
    });
  }
  auto each = [&](auto convert_element) {
    for_each_element(matrix, panel, rows, [&](std::size_t s, std::size_t t) { convert_element(s, t); });
  };
  if (piece.type == matrix.type) {
    if (matrix.type == dtype::f32) return each([&](auto s, auto t) { store(to, s, load<float>(source, t)); });
    return each([&](auto s, auto t) { store(to, s, load<half>(source, t)); });
  }
  if (piece.type == dtype::bf16)
    return each([&](auto s, auto t) { store(to, s, f32_to_bf16(load<float>(source, t))); });
  each([&](auto s, auto t) { store(to, s, f32_to_f16(load<float>(source, t))); });
}

packed_expert packed_expert::of(const model::expert_shape& shape, dtype type, panel_form form) {
  return {.shape = shape,
          .first = {.out = shape.width, .in = shape.hidden, .type = type, .form = form},
          .second = {.out = shape.hidden, .in = shape.width, .type = type, .form = form}};
}

std::size_t packed_expert::first_offset(std::uint32_t panel) const {
  std::size_t outputs = std::min<std::size_t>(std::size_t{panel} * panel_width, first.outputs());
  return parts() * outputs * first.inputs() * bytes_per_element(first.type);
}

std::size_t packed_expert::second_offset(std::uint32_t panel) const {
  std::size_t outputs = std::min<std::size_t>(std::size_t{panel} * panel_width, second.outputs());
  return first_offset(first.panels()) + outputs * second.inputs() * bytes_per_element(second.type);
}

std::size_t packed_expert::up_bias_offset() const {
  return gate_bias_offset() + (shape.has_bias && parts() == 2 ? first.outputs() * sizeof(float) : 0);
}

std::size_t packed_expert::down_bias_offset() const {
  return up_bias_offset() + (shape.has_bias ? first.outputs() * sizeof(float) : 0);
}

std::size_t packed_expert::bytes() const {
  return down_bias_offset() + (shape.has_bias ? second.outputs() * sizeof(float) : 0);
}

namespace {

// A bias [n] is packed as the rows form of a matrix [n, 1] would be without padded inputs: plain f32 values.
void pack_bias(const matrix_piece& piece, const std::byte* bundle, std::size_t padded, std::byte* target) {
  std::memset(target, 0, padded * sizeof(float));
  for (std::size_t o = 0; o < piece.out; ++o) store(target, o, read_element(piece, bundle, o, 0));
}

void unpack_bias(const matrix_piece& piece, const std::byte* source, std::byte* bundle) {
  std::byte* to = bundle + piece.offset;
  for (std::size_t o = 0; o < piece.out; ++o) {
    convert(dtype::f32, source + o * sizeof(float), piece.type, to + piece.index(o, 0) * bytes_per_element(piece.type),
            1);
  }
}

}  // namespace

void packed_expert::pack(const bundle_plan& plan, const std::byte* bundle, std::byte* slot) const {
  for (std::uint32_t p = 0; p < first.panels(); ++p) {
    std::byte* target = slot + first_offset(p);
    if (parts() == 2) {
      pack_panel(first, p, plan.gate, bundle, target);
      target += first.bytes_of(p);
    }
    pack_panel(first, p, plan.up, bundle, target);
  }
  for (std::uint32_t p = 0; p < second.panels(); ++p) {
    pack_panel(second, p, plan.down, bundle, slot + second_offset(p));
  }
  if (!shape.has_bias) return;
  if (parts() == 2) pack_bias(plan.gate_bias, bundle, first.outputs(), slot + gate_bias_offset());
  pack_bias(plan.up_bias, bundle, first.outputs(), slot + up_bias_offset());
  pack_bias(plan.down_bias, bundle, second.outputs(), slot + down_bias_offset());
}

void packed_expert::unpack(const bundle_plan& plan, const std::byte* slot, std::byte* bundle) const {
  for (std::uint32_t p = 0; p < first.panels(); ++p) {
    const std::byte* source = slot + first_offset(p);
    if (parts() == 2) {
      unpack_panel(first, p, plan.gate, source, bundle);
      source += first.bytes_of(p);
    }
    unpack_panel(first, p, plan.up, source, bundle);
  }
  for (std::uint32_t p = 0; p < second.panels(); ++p) {
    unpack_panel(second, p, plan.down, slot + second_offset(p), bundle);
  }
  if (!shape.has_bias) return;
  if (parts() == 2) unpack_bias(plan.gate_bias, slot + gate_bias_offset(), bundle);
  unpack_bias(plan.up_bias, slot + up_bias_offset(), bundle);
  unpack_bias(plan.down_bias, slot + down_bias_offset(), bundle);
}

}  // namespace troupe::compute
