#include "compute/few_rows_product.hpp"

#include <immintrin.h>

#include <cassert>
#include <cstring>

#define TROUPE_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace troupe::compute {
namespace {

constexpr std::uint32_t lanes = 16;  // f32 sums in a vector; as many pairs of bf16
constexpr std::size_t vector_bytes = 64;
constexpr std::size_t ask_ahead_bytes = 8192;  // found by measuring 2 to 16 KB

// One panel of 16 * Vectors outputs, `Rows` rows: every pair of inputs of the panel is read once, in order, and asked
// for ask_ahead_bytes before; near the end that is what comes `after` the panel.
template <int Rows, int Vectors>
TROUPE_AVX512_BF16 void multiply_panel(const std::byte* a, std::size_t a_stride_bytes, std::uint32_t inputs,
                                       const std::byte* panel, const std::byte* after, float* c, std::size_t c_stride) {
  __m512 sums[Rows][Vectors];
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm512_setzero_ps();
  }
  constexpr std::size_t step_bytes = Vectors * vector_bytes;
  constexpr auto steps_ahead = static_cast<std::uint32_t>(ask_ahead_bytes / step_bytes);
  std::uint32_t turn = inputs / 2 > steps_ahead ? inputs / 2 - steps_ahead : 0;
  const std::byte* asked = panel + ask_ahead_bytes;
  for (std::uint32_t k = 0; k < inputs; k += 2) {
    if (k == 2 * turn) asked = after;
    __m512bh weights[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      _mm_prefetch(reinterpret_cast<const char*>(asked + v * vector_bytes), _MM_HINT_T0);
      weights[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + v * vector_bytes));
    }
    for (int r = 0; r < Rows; ++r) {
      int pair = 0;
      std::memcpy(&pair, a + r * a_stride_bytes + k * 2, sizeof pair);
      auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int v = 0; v < Vectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], both, weights[v]);
    }
    panel += step_bytes;
    asked += step_bytes;
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(c + r * c_stride + v * lanes, sums[r][v]);
  }
}

template <int Rows>
void multiply_rows(const product& p, std::uint32_t a_stride) {
  std::size_t c_stride = std::size_t{p.panel_count} * p.width;
  for (std::uint32_t i = 0; i < p.panel_count; ++i) {
    const std::byte* panel = p.panels + std::size_t{i} * p.width * p.inputs * 2;
    const std::byte* end = panel + std::size_t{p.width} * p.inputs * 2;
    // Unknown: the panel itself once more, which costs nothing.
    const std::byte* after = i + 1 < p.panel_count ? end : p.next != nullptr ? p.next : panel;
    float* c = p.c + std::size_t{i} * p.width;
    std::size_t stride = std::size_t{a_stride} * 2;
    switch (p.width / lanes) {
      case 1:
        multiply_panel<Rows, 1>(p.a, stride, p.inputs, panel, after, c, c_stride);
        break;
      case 2:
        multiply_panel<Rows, 2>(p.a, stride, p.inputs, panel, after, c, c_stride);
        break;
      case 3:
        multiply_panel<Rows, 3>(p.a, stride, p.inputs, panel, after, c, c_stride);
        break;
      default:
        multiply_panel<Rows, 4>(p.a, stride, p.inputs, panel, after, c, c_stride);
    }
  }
}

}  // namespace

void few_rows_multiply(const product& p, std::uint32_t a_stride) {
  assert(p.rows >= 1 && p.rows <= few_rows_max);
  switch (p.rows) {
    case 1:
      return multiply_rows<1>(p, a_stride);
    case 2:
      return multiply_rows<2>(p, a_stride);
    case 3:
      return multiply_rows<3>(p, a_stride);
    default:
      return multiply_rows<4>(p, a_stride);
  }
}

}  // namespace troupe::compute
