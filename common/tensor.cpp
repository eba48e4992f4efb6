#include "common/tensor.hpp"

#include <array>
#include <cassert>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "common/instruction_set.hpp"

namespace troupe {
namespace {

struct dtype_row {
  dtype type;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array<dtype_row, 16> dtype_table{{
    {dtype::f32, "F32", 4},
    {dtype::f16, "F16", 2},
    {dtype::bf16, "BF16", 2},
    {dtype::i32, "I32", 4},
    {dtype::u8, "U8", 1},
    {dtype::i64, "I64", 8},
    {dtype::f64, "F64", 8},
    {dtype::i8, "I8", 1},
    {dtype::i16, "I16", 2},
    {dtype::u16, "U16", 2},
    {dtype::u32, "U32", 4},
    {dtype::u64, "U64", 8},
    {dtype::boolean, "BOOL", 1},
    {dtype::f8_e4m3, "F8_E4M3", 1},
    {dtype::f8_e5m2, "F8_E5M2", 1},
    {dtype::f8_e8m0, "F8_E8M0", 1},
}};

const dtype_row& row_of(dtype type) {
  for (const auto& row : dtype_table) {
    if (row.type == type) return row;
  }
  assert(false && "a dtype outside the enumeration");
  return dtype_table.front();
}

// Elements as they stand in memory: without alignment.
template <dtype Type>
inline __attribute__((always_inline)) float load(const std::byte* source, std::size_t index) {
  if constexpr (Type == dtype::f32) {
    float value = 0;
    std::memcpy(&value, source + index * sizeof value, sizeof value);
    return value;
  } else {
    std::uint16_t bits = 0;
    std::memcpy(&bits, source + index * sizeof bits, sizeof bits);
    return Type == dtype::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  }
}

template <dtype Type>
inline __attribute__((always_inline)) void store(std::byte* target, std::size_t index, float value) {
  if constexpr (Type == dtype::f32) {
    std::memcpy(target + index * sizeof value, &value, sizeof value);
  } else {
    const auto bits = Type == dtype::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
    std::memcpy(target + index * sizeof bits, &bits, sizeof bits);
  }
}

template <dtype From, dtype To>
inline __attribute__((always_inline)) void convert_body(const std::byte* __restrict source,
                                                        std::byte* __restrict target, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) store<To>(target, i, load<From>(source, i));
}

// One loop per pair of types, compiled for AVX-512 too where the processor may have it: every row of the router passes
// here several times.
template <dtype From, dtype To>
void convert_plain(const std::byte* source, std::byte* target, std::size_t count) {
  convert_body<From, To>(source, target, count);
}

#if defined(__x86_64__)
template <dtype From, dtype To>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) void convert_avx512(const std::byte* source,
                                                                                  std::byte* target,
                                                                                  std::size_t count) {
  convert_body<From, To>(source, target, count);
}
#endif

template <dtype From, dtype To>
void convert_pair(const std::byte* source, std::byte* target, std::size_t count) {
#if defined(__x86_64__)
  if (has_avx512()) return convert_avx512<From, To>(source, target, count);
#endif
  convert_plain<From, To>(source, target, count);
}

}  // namespace

std::size_t bytes_per_element(dtype type) { return row_of(type).bytes; }

std::string_view to_string(dtype type) { return row_of(type).name; }

std::optional<dtype> parse_dtype(std::string_view text) {
  for (const auto& row : dtype_table) {
    if (row.name == text) return row.type;
  }
  return std::nullopt;
}

result<std::uint64_t> checked_bytes(dtype type, std::span<const std::uint64_t> shape) {
  std::uint64_t bytes = bytes_per_element(type);
  for (auto extent : shape) {
    if (extent != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / extent) {
      std::string text;
      for (auto e : shape) text += (text.empty() ? "" : " x ") + std::to_string(e);
      return fail(errc::invalid_request, "shape " + text + " x " + std::to_string(bytes_per_element(type)) +
                                             " bytes overflows 64 bits; check the shape");
    }
    bytes *= extent;
  }
  return bytes;
}

float f16_to_f32(std::uint16_t bits) {
  std::uint32_t sign = std::uint32_t{bits & 0x8000U} << 16;
  std::uint32_t exponent = bits >> 10 & 0x1fU;
  std::uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // subnormal or zero: exact in f32
  return sign != 0 ? -magnitude : magnitude;
}

std::uint16_t f32_to_f16(float value) {
  auto bits = std::bit_cast<std::uint32_t>(value);
  auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
  std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // rounds above 65504
  if (magnitude < 0x38800000U) {  // subnormal in f16: let the f32 adder round at 2^-24
    float rounded = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(rounded) - 0x3f000000U));
  }
  std::uint32_t rounded = magnitude + 0xfffU + (magnitude >> 13 & 1U) - 0x38000000U;
  return static_cast<std::uint16_t>(sign | rounded >> 13);
}

void convert(dtype from, const std::byte* source, dtype to, std::byte* target, std::size_t count) {
  assert(from == dtype::f32 || from == dtype::f16 || from == dtype::bf16);
  assert(to == dtype::f32 || to == dtype::f16 || to == dtype::bf16);
  if (from == to) {
    std::memcpy(target, source, count * bytes_per_element(from));
    return;
  }
  using enum dtype;
  if (from == f32)
    return to == bf16 ? convert_pair<f32, bf16>(source, target, count) : convert_pair<f32, f16>(source, target, count);
  if (from == bf16)
    return to == f32 ? convert_pair<bf16, f32>(source, target, count) : convert_pair<bf16, f16>(source, target, count);
  return to == f32 ? convert_pair<f16, f32>(source, target, count) : convert_pair<f16, bf16>(source, target, count);
}

}  // namespace troupe
