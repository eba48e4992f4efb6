#include "model/quantised.hpp"

#include <algorithm>
#include <array>
#include <cassert>

namespace troupe::model {
namespace {

constexpr auto e4m3_values = [] {
  std::array<float, 256> values{};
  for (unsigned bits = 0; bits < values.size(); ++bits) values[bits] = e4m3_to_f32(static_cast<std::uint8_t>(bits));
  return values;
}();

// Both halves of a byte: a branch on random signs would take most of the time.
constexpr auto e2m1_pairs = [] {
  std::array<std::array<float, 2>, 256> pairs{};
  for (unsigned bits = 0; bits < pairs.size(); ++bits) pairs[bits] = {e2m1_to_f32(bits & 0xfU), e2m1_to_f32(bits >> 4)};
  return pairs;
}();

float scale_at(const quantised_matrix& matrix, std::size_t index) {
  if (matrix.type == dtype::u8) return e8m0_to_f32(std::to_integer<std::uint8_t>(matrix.scales[index]));
  float scale = 0;
  convert(matrix.scale_type, matrix.scales + index * bytes_per_element(matrix.scale_type), dtype::f32,
          reinterpret_cast<std::byte*>(&scale), 1);
  return scale;
}

void dequantise_fp8(const std::byte* numbers, std::size_t count, float scale, float* target) {
  for (std::size_t i = 0; i < count; ++i) target[i] = e4m3_values[std::to_integer<unsigned>(numbers[i])] * scale;
}

void dequantise_mxfp4(const std::byte* numbers, std::size_t count, float scale, float* target) {
  for (std::size_t i = 0; i < count; i += 2) {
    const auto& both = e2m1_pairs[std::to_integer<unsigned>(numbers[i / 2])];
    target[i] = both[0] * scale;
    target[i + 1] = both[1] * scale;
  }
}

}  // namespace

std::vector<std::uint64_t> scales_shape(std::uint64_t out, std::uint64_t in, const scale_block& block) {
  const auto blocks = [](std::uint64_t extent, std::uint32_t size) { return extent / size + (extent % size != 0); };
  return {blocks(out, block.outputs), blocks(in, block.inputs)};
}

void dequantise_row(const quantised_matrix& matrix, std::size_t out, float* target) {
  assert(is_quantised(matrix.type) && is_scale_type(matrix.type, matrix.scale_type));
  const std::size_t in = matrix.in;
  const std::size_t size = matrix.block.inputs;
  const std::size_t per_row = (in + size - 1) / size;
  const std::size_t first_scale = out / matrix.block.outputs * per_row;
  for (std::size_t b = 0; b < per_row; ++b) {
    const std::size_t begin = b * size;
    const std::size_t count = std::min(size, in - begin);
    const float scale = scale_at(matrix, first_scale + b);
    if (matrix.type == dtype::u8) {
      dequantise_mxfp4(matrix.numbers + (out * in + begin) / 2, count, scale, target + begin);
    } else {
      dequantise_fp8(matrix.numbers + out * in + begin, count, scale, target + begin);
    }
  }
}

}  // namespace troupe::model
