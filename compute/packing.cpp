#include "compute/packing.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

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

template <class Visit>
void for_each_element(const packed_matrix& matrix, std::uint32_t panel, const matrix_piece& piece, Visit visit) {
  std::size_t first_out = std::size_t{panel} * panel_width;
  std::size_t width = matrix.width(panel);
  std::size_t used = std::min<std::size_t>(width, matrix.out - first_out);
  std::size_t inputs = matrix.inputs();
  // 32 inputs of all outputs at a time: both sides of the transposition stay in the first cache.
  for (std::size_t begin = 0; begin < matrix.in; begin += 32) {
    std::size_t end = std::min<std::size_t>(begin + 32, matrix.in);
    for (std::size_t c = 0; c < used; ++c) {
      for (std::size_t i = begin; i < end; ++i) {
        visit(piece.index(first_out + c, i), place(matrix.form, width, inputs, c, i));
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
  const std::byte* from = bundle + piece.offset;
  std::memset(target, 0, matrix.bytes_of(panel));
  auto each = [&](auto convert_element) {
    for_each_element(matrix, panel, piece, [&](std::size_t s, std::size_t t) { convert_element(s, t); });
  };
  if (piece.type == matrix.type) {
    if (matrix.type == dtype::f32) return each([&](auto s, auto t) { store(target, t, load<float>(from, s)); });
    return each([&](auto s, auto t) { store(target, t, load<half>(from, s)); });
  }
  auto read = [&](std::size_t s) {
    if (piece.type == dtype::f32) return load<float>(from, s);
    auto bits = load<half>(from, s);
    return piece.type == dtype::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  };
  if (matrix.type == dtype::f32) return each([&](auto s, auto t) { store(target, t, read(s)); });
  each([&](auto s, auto t) { store(target, t, f32_to_bf16(read(s))); });
}

void unpack_panel(const packed_matrix& matrix, std::uint32_t panel, const matrix_piece& piece, const std::byte* source,
                  std::byte* bundle) {
  assert(is_exact(piece.type, matrix.type));
  std::byte* to = bundle + piece.offset;
  auto each = [&](auto convert_element) {
    for_each_element(matrix, panel, piece, [&](std::size_t s, std::size_t t) { convert_element(s, t); });
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
