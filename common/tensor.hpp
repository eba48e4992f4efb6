// Element types and non-owning views of dense row-major tensors. No arithmetic on elements except conversion.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/error.hpp"

namespace troupe {

// The numbers go over the wire (proto DType mirrors them).
enum class dtype : std::uint8_t {
  f32 = 1,
  f16 = 2,
  bf16 = 3,
  i32 = 4,
  u8 = 5,
  i64 = 6,
  f64 = 7,
  i8 = 8,
  i16 = 9,
  u16 = 10,
  u32 = 11,
  u64 = 12,
  boolean = 13,
  f8_e4m3 = 14,
  f8_e5m2 = 15,
  f8_e8m0 = 16
};

[[nodiscard]] std::size_t bytes_per_element(dtype type);
// As safetensors spells it: "F32", "BF16", "F8_E4M3", ...
[[nodiscard]] std::string_view to_string(dtype type);
[[nodiscard]] std::optional<dtype> parse_dtype(std::string_view text);

// shape x element size, or invalid_request naming the numbers when the product overflows 64 bits.
[[nodiscard]] result<std::uint64_t> checked_bytes(dtype type, std::span<const std::uint64_t> shape);

// Bytes that somebody else owns, with the shape that somebody else has checked against them.
struct tensor_view {
  dtype type{dtype::f32};
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> bytes;
};

[[nodiscard]] constexpr float bf16_to_f32(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

// Round to nearest even; NaN stays NaN.
[[nodiscard]] constexpr std::uint16_t f32_to_bf16(float value) {
  auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

[[nodiscard]] float f16_to_f32(std::uint16_t bits);

// The numbers of fewer bits that quantised weights are made of (OCP OFP8 and MX specifications); all exact in f32.
// F8_E4M3 (its "fn" variant): sign, 4 bits of exponent with bias 7, 3 of fraction; no infinity, 0x7f and 0xff are NaN.
[[nodiscard]] constexpr float e4m3_to_f32(std::uint8_t bits) {
  const std::uint32_t magnitude = bits & 0x7fU;
  const std::uint32_t sign = std::uint32_t{bits & 0x80U} << 24;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000U);
  if (magnitude >= 8) return std::bit_cast<float>(sign | ((magnitude << 20) + (120U << 23)));
  return static_cast<float>(magnitude) * (sign != 0 ? -0x1p-9F : 0x1p-9F);
}
// A scale: 2^(bits - 127); 255 is NaN.
[[nodiscard]] constexpr float e8m0_to_f32(std::uint8_t bits) {
  if (bits == 0xff) return std::bit_cast<float>(0x7fc00000U);
  return std::bit_cast<float>(bits == 0 ? 0x00400000U : std::uint32_t{bits} << 23);
}
// Half a byte: sign, 2 bits of exponent, 1 of fraction: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. @pre bits < 16
[[nodiscard]] constexpr float e2m1_to_f32(unsigned bits) {
  constexpr float magnitudes[8] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  return bits < 8 ? magnitudes[bits] : -magnitudes[bits - 8];
}

// Round to nearest even; overflow becomes infinity, NaN stays NaN.
[[nodiscard]] std::uint16_t f32_to_f16(float value);

// Converts `count` elements between f32, f16 and bf16. @pre both types are among these; buffers do not overlap.
void convert(dtype from, const std::byte* source, dtype to, std::byte* target, std::size_t count);

}  // namespace troupe
