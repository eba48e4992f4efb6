// Where gate, up and down of an expert lie in a bundle, whatever the checkpoint's form: interleaved, transposed, with
// or without biases. Turns all of them into strided matrices [out, in], which packing reads and its inverse writes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "model/description.hpp"

namespace troupe::compute {

// Element (o, i) stands at index `first + o * stride_out + i * stride_in` of `type` elements behind `offset` bytes.
struct matrix_piece {
  std::size_t offset{};  // bytes, from the bundle's begin
  dtype type{dtype::f32};
  std::uint32_t out{};  // 0: the expert has no such matrix
  std::uint32_t in{};
  std::size_t first{};
  std::size_t stride_out{};
  std::size_t stride_in{};

  [[nodiscard]] std::size_t index(std::size_t o, std::size_t i) const { return first + o * stride_out + i * stride_in; }
};

// Biases are matrices with one input, so that they are read by the same code.
struct bundle_plan {
  matrix_piece gate, up, down;
  matrix_piece gate_bias, up_bias, down_bias;
};

// invalid_request names the tensor when a role is missing, doubled or unexpected for the activation, when a shape does
// not fit the expert's or its bytes, when the type is not f32, f16 or bf16, or when `bundle_bytes` is not the sum.
[[nodiscard]] result<bundle_plan> plan_bundle(const model::bundle_layout& layout, std::size_t bundle_bytes);

// One element as f32.
[[nodiscard]] float read_element(const matrix_piece& piece, const std::byte* bundle, std::size_t o, std::size_t i);

}  // namespace troupe::compute
