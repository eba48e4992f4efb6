// Where gate, up and down of an expert lie in a bundle, whatever the checkpoint's form: interleaved, transposed,
// quantised, with or without biases. Turns all of them into strided matrices [out, in], which packing reads and, unless
// they are quantised, its inverse writes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "model/description.hpp"

namespace troupe::compute {

// Of a quantised matrix (model/quantised.hpp): one per block of the stored matrix that the piece is cut from.
struct piece_scales {
  std::size_t offset{};  // bytes, from the bundle's begin
  dtype type{dtype::f32};
  model::scale_block block;
};

// Element (o, i) stands at index `first + o * stride_out + i * stride_in` of `type` elements behind `offset` bytes; of
// mxfp4 (u8) two in a byte. Quantised pieces consist of whole rows: stride_in is 1, first and stride_out are multiples
// of `in`.
struct matrix_piece {
  std::size_t offset{};  // bytes, from the bundle's begin
  dtype type{dtype::f32};
  std::uint32_t out{};  // 0: the expert has no such matrix
  std::uint32_t in{};
  std::size_t first{};
  std::size_t stride_out{};
  std::size_t stride_in{};
  piece_scales scales{};

  [[nodiscard]] std::size_t index(std::size_t o, std::size_t i) const { return first + o * stride_out + i * stride_in; }
};

// Biases are matrices with one input, so that they are read by the same code.
struct bundle_plan {
  matrix_piece gate, up, down;
  matrix_piece gate_bias, up_bias, down_bias;
};

// invalid_request names the tensor when a role is missing, doubled or unexpected for the activation, when a shape does
// not fit the expert's or its bytes, when the type is not f32, f16, bf16 or a quantised one with its scales, or when
// `bundle_bytes` is not the sum.
[[nodiscard]] result<bundle_plan> plan_bundle(const model::bundle_layout& layout, std::size_t bundle_bytes);

// One element as f32. @pre the piece is not quantised
[[nodiscard]] float read_element(const matrix_piece& piece, const std::byte* bundle, std::size_t o, std::size_t i);

// All inputs of output `o` as f32, to target[0 .. in).
void read_row(const matrix_piece& piece, const std::byte* bundle, std::size_t o, float* target);

}  // namespace troupe::compute
