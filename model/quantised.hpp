// Weights that are stored in fewer bits than they are computed with, with a scale for each block of them:
//
//   fp8    F8_E4M3 [out, in]; a scale (F32, F16 or BF16) per block of outputs x inputs, 128 x 128 in published files
//   mxfp4  U8 [out, in / 32, 16]: two e2m1 numbers a byte, the low half first; a scale 2^(s - 127) per 32 inputs of an
//          output (U8 or F8_E8M0)
//
// weight = number x scale, in f32: what `quant_method` fp8 and mxfp4 of transformers dequantise to. Pure functions; any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/tensor.hpp"
#include "model/description.hpp"

namespace troupe::model {

inline constexpr scale_block mxfp4_block{.outputs = 1, .inputs = 32};

[[nodiscard]] constexpr bool is_plain(dtype type) {
  return type == dtype::f32 || type == dtype::f16 || type == dtype::bf16;
}
// Of weights: do scales belong to them?
[[nodiscard]] constexpr bool is_quantised(dtype weights) { return weights == dtype::f8_e4m3 || weights == dtype::u8; }
// May scales of such weights be stored as that?
[[nodiscard]] constexpr bool is_scale_type(dtype weights, dtype scales) {
  return weights == dtype::u8 ? scales == dtype::u8 || scales == dtype::f8_e8m0 : is_plain(scales);
}

// [blocks along the outputs, blocks along the inputs]. @pre block is not zero
[[nodiscard]] std::vector<std::uint64_t> scales_shape(std::uint64_t out, std::uint64_t in, const scale_block& block);

// The tensor that holds the scales of an fp8 weight: "....weight" -> "....weight_scale_inv".
[[nodiscard]] inline std::string fp8_scale_name(std::string_view weight) { return std::string{weight} + "_scale_inv"; }

// A matrix [out, in] somewhere in memory; the bytes are somebody else's and need no alignment.
struct quantised_matrix {
  dtype type{dtype::f8_e4m3};  // f8_e4m3, or u8 for mxfp4
  const std::byte* numbers{};
  dtype scale_type{dtype::f32};
  const std::byte* scales{};
  std::uint32_t in{};  // a multiple of 32 for mxfp4
  scale_block block;
};

// All inputs of one output as f32, to target[0 .. in).
void dequantise_row(const quantised_matrix& matrix, std::size_t out, float* target);

}  // namespace troupe::model
