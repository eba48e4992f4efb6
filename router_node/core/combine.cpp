#include "router_node/core/combine.hpp"

#include <cstring>

namespace troupe::router {
namespace {

template <class Bits>
Bits load(const std::byte* from) {
  Bits bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

// A value is NaN or infinite when all bits of its exponent are set. Found per block, so that the usual case, none at
// all, is a loop without branches.
template <class Bits>
std::size_t find_full_exponent(const std::byte* values, std::size_t count, Bits exponent) {
  constexpr std::size_t block = 1024;
  for (std::size_t begin = 0; begin < count; begin += block) {
    const auto end = begin + block < count ? begin + block : count;
    unsigned found = 0;
    for (auto i = begin; i < end; ++i) {
      found |= static_cast<unsigned>((load<Bits>(values + i * sizeof(Bits)) & exponent) == exponent);
    }
    if (found == 0) continue;
    for (auto i = begin; i < end; ++i) {
      if ((load<Bits>(values + i * sizeof(Bits)) & exponent) == exponent) return i;
    }
  }
  return count;
}

}  // namespace

void add_row(std::span<float> sum, const std::byte* row, dtype type) {
  const auto n = sum.size();
  auto* target = sum.data();
  switch (type) {
    case dtype::bf16:
      for (std::size_t i = 0; i < n; ++i) target[i] += bf16_to_f32(load<std::uint16_t>(row + 2 * i));
      return;
    case dtype::f16:
      for (std::size_t i = 0; i < n; ++i) target[i] += f16_to_f32(load<std::uint16_t>(row + 2 * i));
      return;
    default:
      for (std::size_t i = 0; i < n; ++i) target[i] += load<float>(row + 4 * i);
  }
}

void gather_rows(const std::byte* matrix, std::size_t row_bytes, std::span<const std::uint32_t> chosen,
                 std::byte* target) {
  for (const auto row : chosen) {
    std::memcpy(target, matrix + row * row_bytes, row_bytes);
    target += row_bytes;
  }
}

std::size_t find_non_finite(const std::byte* values, std::size_t count, dtype type) {
  switch (type) {
    case dtype::bf16:
      return find_full_exponent<std::uint16_t>(values, count, 0x7f80);
    case dtype::f16:
      return find_full_exponent<std::uint16_t>(values, count, 0x7c00);
    default:
      return find_full_exponent<std::uint32_t>(values, count, 0x7f800000U);
  }
}

}  // namespace troupe::router
