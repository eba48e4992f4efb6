#include "router_node/core/combine.hpp"

#include <cstring>

#include "common/instruction_set.hpp"

namespace troupe::router {
namespace {

template <class Bits>
Bits load(const std::byte* from) {
  Bits bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

template <dtype Type>
inline __attribute__((always_inline)) float element(const std::byte* row, std::size_t index) {
  if constexpr (Type == dtype::f32) return load<float>(row + 4 * index);
  const auto bits = load<std::uint16_t>(row + 2 * index);
  return Type == dtype::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

template <dtype Type>
inline __attribute__((always_inline)) void add_body(float* __restrict sum, const std::byte* __restrict row,
                                                    std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) sum[i] += element<Type>(row, i);
}

// A value is NaN or infinite when all bits of its exponent are set. Found per block, so that the usual case, none at
// all, is a loop without branches.
template <class Bits>
inline __attribute__((always_inline)) std::size_t find_body(const std::byte* values, std::size_t count, Bits exponent) {
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

// Both loops twice: compiled for every processor, and for those with AVX-512. The same sums.
template <dtype Type>
void add_plain(float* sum, const std::byte* row, std::size_t count) {
  add_body<Type>(sum, row, count);
}
template <class Bits>
std::size_t find_plain(const std::byte* values, std::size_t count, Bits exponent) {
  return find_body(values, count, exponent);
}

#if defined(__x86_64__)
#define TROUPE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

template <dtype Type>
TROUPE_AVX512 void add_avx512(float* sum, const std::byte* row, std::size_t count) {
  add_body<Type>(sum, row, count);
}
template <class Bits>
TROUPE_AVX512 std::size_t find_avx512(const std::byte* values, std::size_t count, Bits exponent) {
  return find_body(values, count, exponent);
}
#endif

template <dtype Type>
void add_elements(float* sum, const std::byte* row, std::size_t count) {
#if defined(__x86_64__)
  if (has_avx512()) return add_avx512<Type>(sum, row, count);
#endif
  add_plain<Type>(sum, row, count);
}

template <class Bits>
std::size_t find_full_exponent(const std::byte* values, std::size_t count, Bits exponent) {
#if defined(__x86_64__)
  if (has_avx512()) return find_avx512(values, count, exponent);
#endif
  return find_plain(values, count, exponent);
}

}  // namespace

void add_row(std::span<float> sum, const std::byte* row, dtype type) {
  switch (type) {
    case dtype::bf16:
      return add_elements<dtype::bf16>(sum.data(), row, sum.size());
    case dtype::f16:
      return add_elements<dtype::f16>(sum.data(), row, sum.size());
    default:
      return add_elements<dtype::f32>(sum.data(), row, sum.size());
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
