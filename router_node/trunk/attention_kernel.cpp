#include "router_node/trunk/attention_kernel.hpp"

#include <type_traits>

#include "common/instruction_set.hpp"
#include "common/limits.hpp"

// The loops are written once over vectors of 16 floats, which the compiler cuts into what the target has. Everything
// is inlined into three wrappers with different targets; no library function is called inside, so nothing compiled for
// AVX-512 leaks into other code.
#define TROUPE_BODY inline __attribute__((always_inline))
#define TROUPE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
#define TROUPE_AVX2 __attribute__((target("avx2,fma")))
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors as arguments: all of these functions are inlined

namespace troupe::router {
namespace {

using floats = float __attribute__((vector_size(64)));
using words = std::uint32_t __attribute__((vector_size(64)));
using numbers = std::int32_t __attribute__((vector_size(64)));

constexpr std::uint32_t lanes = 16;
constexpr std::uint32_t block_tokens = limits::kv_block_tokens;
static_assert(block_tokens == lanes, "the keys of a block are one vector");
constexpr std::uint32_t chunk_blocks = 4;
constexpr std::uint32_t chunk_tokens = chunk_blocks * block_tokens;
constexpr float lowest = -1e30F;  // below every score, and finite, so that differences are

TROUPE_BODY floats load(const void* from) {
  floats v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
TROUPE_BODY void store(void* to, const floats& v) { __builtin_memcpy(to, &v, sizeof v); }
TROUPE_BODY floats spread(float x) { return floats{} + x; }

// What stands side by side in memory, as two vectors: see kv_memory.hpp.
struct bf16_pairs {
  static TROUPE_BODY void read(const std::byte* from, std::size_t, floats& even, floats& odd) {
    words both;
    __builtin_memcpy(&both, from, sizeof both);
    even = reinterpret_cast<floats>(both << 16);
    odd = reinterpret_cast<floats>(both & 0xffff0000U);
  }
};
struct f32_pairs {
  static TROUPE_BODY void read(const std::byte* from, std::size_t apart, floats& even, floats& odd) {
    even = load(from);
    odd = load(from + apart);
  }
};

TROUPE_BODY floats larger(const floats& a, const floats& b) { return a > b ? a : b; }

TROUPE_BODY float largest(const floats& of) {
  floats v = of;
  v = larger(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = larger(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = larger(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return v[0];
}

TROUPE_BODY float sum_of(const floats& of) {
  floats v = of;
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return v[0];
}

// e^x for x <= 0 as in compute/elementwise.cpp, and exactly 0 where that would not be a normal number.
TROUPE_BODY floats exponential(const floats& x) {
  constexpr float round_to_integer = 12582912.0F;  // 1.5 * 2^23: adding it drops the fraction
  floats shifted = x * 1.44269504F + round_to_integer;
  floats n = shifted - round_to_integer;
  floats r = x - n * 0.693359375F + n * 2.12194440e-4F;
  floats p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  constexpr std::int32_t integer_bits = 0x4b400000;  // of round_to_integer
  auto power = (reinterpret_cast<numbers>(shifted) - integer_bits + 127) << 23;
  floats value = p * reinterpret_cast<floats>(power);
  return x > -87.0F ? value : floats{};
}

// Scratch of one tile; rows [tokens * group].
struct tile_state {
  float* scores;    // [rows][chunk_tokens]; then the weights
  float* peaks;     // [rows]: the largest score so far
  float* shrink;    // [rows]: what the chunk multiplies earlier sums by
  float* sums;      // [rows][lanes]: exponentials, one sum per lane
  float* weighted;  // [rows][dims]
};

struct chunk {
  const std::byte* keys[chunk_blocks];
  const std::byte* next[chunk_blocks];  // of the chunk after this one, to be asked for
  std::uint32_t first;                  // position of its first token
  std::uint32_t begin, end;             // tokens that any row of the tile sees, counted from `first`
};

TROUPE_BODY const float* query_row(const attention_tile& tile, std::uint32_t row) {
  return tile.queries + row / tile.group * tile.query_stride + std::size_t{row % tile.group} * tile.dims;
}

// scores = queries . keys, `Rows` rows and all four blocks.
template <class Pairs, int Rows>
TROUPE_BODY void score(const attention_tile& tile, const chunk& c, std::uint32_t row, float* scores) {
  floats sums[Rows][chunk_blocks] = {};
  const float* q[Rows];
  for (int r = 0; r < Rows; ++r) q[r] = query_row(tile, row + static_cast<std::uint32_t>(r));
  constexpr std::size_t step = std::is_same_v<Pairs, bf16_pairs> ? 64 : 128;  // of two dims
  std::size_t at = 0;
  for (std::uint32_t d = 0; d < tile.dims; d += 2, at += step) {
    floats even[chunk_blocks];
    floats odd[chunk_blocks];
    for (std::uint32_t b = 0; b < chunk_blocks; ++b) {
      Pairs::read(c.keys[b] + at, lanes * sizeof(float), even[b], odd[b]);
      __builtin_prefetch(c.next[b] + at);
    }
    for (int r = 0; r < Rows; ++r) {
      floats first = spread(q[r][d]);
      for (std::uint32_t b = 0; b < chunk_blocks; ++b) sums[r][b] += first * even[b];
      floats second = spread(q[r][d + 1]);
      for (std::uint32_t b = 0; b < chunk_blocks; ++b) sums[r][b] += second * odd[b];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (std::uint32_t b = 0; b < chunk_blocks; ++b) store(scores + r * chunk_tokens + b * lanes, sums[r][b]);
  }
}

// Scores of one row become weights; what the row may not see weighs exactly nothing.
TROUPE_BODY void soften(const attention_tile& tile, const chunk& c, std::uint32_t row, const tile_state& state) {
  float* scores = state.scores + std::size_t{row} * chunk_tokens;
  floats s[chunk_blocks];
  for (std::uint32_t b = 0; b < chunk_blocks; ++b) s[b] = load(scores + b * lanes);
  std::uint32_t position = tile.first_position + row / tile.group;
  bool cut_above = position < c.first + chunk_tokens - 1;
  bool cut_below = tile.window != 0 && position >= tile.window && position - tile.window >= c.first;
  if (cut_above || cut_below) {
    // Tokens are counted from the chunk's first; a row may lie before it, or beyond it by far.
    auto last = static_cast<std::int32_t>(position - c.first);
    auto before = cut_below ? last - static_cast<std::int32_t>(tile.window) : -1;
    numbers token = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (auto& part : s) {
      part = (token <= last) & (token > before) ? part : spread(2 * lowest);
      token += std::int32_t{lanes};
    }
  }
  float peak = largest(larger(larger(s[0], s[1]), larger(s[2], s[3])));
  peak = peak > state.peaks[row] ? peak : state.peaks[row];
  float shrink = exponential(spread(state.peaks[row] - peak))[0];
  state.peaks[row] = peak;
  state.shrink[row] = shrink;
  for (auto& part : s) part = exponential(part - peak);
  for (std::uint32_t b = 0; b < chunk_blocks; ++b) store(scores + b * lanes, s[b]);
  float* sums = state.sums + std::size_t{row} * lanes;
  store(sums, load(sums) * shrink + ((s[0] + s[1]) + (s[2] + s[3])));
}

// sums += the weights of one token, or of two neighbours, times their values.
template <class Pairs, int Rows, int Vectors, bool Both>
TROUPE_BODY void weigh_tokens(const attention_tile& tile, const chunk& c, std::uint32_t token, std::uint32_t dim,
                              const float* const (&weights)[Rows], floats (&sums)[Rows][Vectors]) {
  std::size_t line = std::size_t{tile.dims} * sizeof(float);  // two tokens in bf16, one in f32
  std::size_t step = std::is_same_v<Pairs, bf16_pairs> ? line : 2 * line;
  std::size_t at = tile.head_bytes + token % block_tokens / 2 * step + dim * sizeof(float);
  const std::byte* from = c.keys[token / block_tokens] + at;
  const std::byte* soon = c.next[token / block_tokens] + at;
  floats even[Vectors];
  floats odd[Vectors];
  for (int v = 0; v < Vectors; ++v) {
    Pairs::read(from + v * sizeof(floats), line, even[v], odd[v]);
    __builtin_prefetch(soon + v * sizeof(floats));
  }
  for (int r = 0; r < Rows; ++r) {
    floats first = spread(weights[r][token]);
    for (int v = 0; v < Vectors; ++v) sums[r][v] += first * even[v];
    if constexpr (Both) {
      floats second = spread(weights[r][token + 1]);
      for (int v = 0; v < Vectors; ++v) sums[r][v] += second * odd[v];
    }
  }
}

// weighted = weighted * shrink + weights . values, `Rows` rows and 16 * Vectors dims from `dim` on.
template <class Pairs, int Rows, int Vectors>
TROUPE_BODY void weigh(const attention_tile& tile, const chunk& c, std::uint32_t row, std::uint32_t dim,
                       const tile_state& state) {
  floats sums[Rows][Vectors];
  const float* weights[Rows];
  for (int r = 0; r < Rows; ++r) {
    std::size_t number = row + static_cast<std::uint32_t>(r);
    weights[r] = state.scores + number * chunk_tokens;
    for (int v = 0; v < Vectors; ++v) {
      sums[r][v] = load(state.weighted + number * tile.dims + dim + v * lanes) * state.shrink[number];
    }
  }
  std::uint32_t token = c.begin / 2 * 2;
  for (; token + 2 <= c.end; token += 2) {
    weigh_tokens<Pairs, Rows, Vectors, true>(tile, c, token, dim, weights, sums);
  }
  // The neighbour of the last token was not written yet and may hold anything, even NaN.
  if (token < c.end) weigh_tokens<Pairs, Rows, Vectors, false>(tile, c, token, dim, weights, sums);
  for (int r = 0; r < Rows; ++r) {
    std::size_t number = row + static_cast<std::uint32_t>(r);
    for (int v = 0; v < Vectors; ++v) store(state.weighted + number * tile.dims + dim + v * lanes, sums[r][v]);
  }
}

template <class Pairs, int Rows>
TROUPE_BODY void weigh_rows(const attention_tile& tile, const chunk& c, std::uint32_t row, const tile_state& state) {
  std::uint32_t dim = 0;
  for (; dim + 4 * lanes <= tile.dims; dim += 4 * lanes) weigh<Pairs, Rows, 4>(tile, c, row, dim, state);
  for (; dim < tile.dims; dim += lanes) weigh<Pairs, Rows, 1>(tile, c, row, dim, state);
}

template <class Pairs>
TROUPE_BODY void attend_chunk(const attention_tile& tile, const chunk& c, const tile_state& state) {
  std::uint32_t rows = tile.tokens * tile.group;
  std::uint32_t row = 0;
  for (; row + 4 <= rows; row += 4) score<Pairs, 4>(tile, c, row, state.scores + std::size_t{row} * chunk_tokens);
  for (; row < rows; ++row) score<Pairs, 1>(tile, c, row, state.scores + std::size_t{row} * chunk_tokens);
  for (row = 0; row < rows; ++row) soften(tile, c, row, state);
  for (row = 0; row + 4 <= rows; row += 4) weigh_rows<Pairs, 4>(tile, c, row, state);
  for (; row < rows; ++row) weigh_rows<Pairs, 1>(tile, c, row, state);
}

TROUPE_BODY const std::byte* block_at(const attention_tile& tile, std::uint32_t position, std::uint32_t last) {
  std::uint32_t number = position < last ? position : last;  // behind the last token nothing is seen: any block will do
  return tile.first_block + tile.blocks[number / block_tokens] * tile.block_bytes;
}

template <class Pairs>
TROUPE_BODY void attend_body(const attention_tile& tile, const tile_state& state) {
  std::uint32_t rows = tile.tokens * tile.group;
  for (std::uint32_t row = 0; row < rows; ++row) state.peaks[row] = lowest;
  for (std::uint32_t i = 0; i < rows * lanes; ++i) state.sums[i] = 0;
  for (std::size_t i = 0; i < std::size_t{rows} * tile.dims; ++i) state.weighted[i] = 0;
  std::uint32_t last = tile.first_position + tile.tokens - 1;
  bool windowed = tile.window != 0 && tile.first_position + 1 > tile.window;
  std::uint32_t begin = windowed ? tile.first_position + 1 - tile.window : 0;
  for (std::uint32_t first = begin / chunk_tokens * chunk_tokens; first <= last; first += chunk_tokens) {
    chunk c;
    c.first = first;
    c.begin = begin > first ? begin - first : 0;
    c.end = last + 1 - first < chunk_tokens ? last + 1 - first : chunk_tokens;
    for (std::uint32_t b = 0; b < chunk_blocks; ++b) {
      c.keys[b] = block_at(tile, first + b * block_tokens, last);
      c.next[b] = block_at(tile, first + (chunk_blocks + b) * block_tokens, last);
    }
    attend_chunk<Pairs>(tile, c, state);
  }
  for (std::uint32_t row = 0; row < rows; ++row) {
    float share = 1.0F / sum_of(load(state.sums + std::size_t{row} * lanes));
    for (std::uint32_t d = 0; d < tile.dims; d += lanes) {
      std::size_t at = std::size_t{row} * tile.dims + d;
      store(tile.out + at, load(state.weighted + at) * share);
    }
  }
}

TROUPE_BODY void attend_any(const attention_tile& tile, const tile_state& state) {
  tile.type == dtype::bf16 ? attend_body<bf16_pairs>(tile, state) : attend_body<f32_pairs>(tile, state);
}

TROUPE_AVX512 void attend_avx512(const attention_tile& tile, const tile_state& state) { attend_any(tile, state); }
TROUPE_AVX2 void attend_avx2(const attention_tile& tile, const tile_state& state) { attend_any(tile, state); }
void attend_plain(const attention_tile& tile, const tile_state& state) { attend_any(tile, state); }

}  // namespace

vector_code best_vector_code() {
  static const auto best = [] {
    __builtin_cpu_init();
    if (has_avx512()) return vector_code::avx512;
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return avx2 ? vector_code::avx2 : vector_code::plain;
  }();
  return best;
}

void attend_tile(const attention_tile& tile, compute::scratch_buffer& scratch, vector_code code) {
  std::size_t rows = std::size_t{tile.tokens} * tile.group;
  std::size_t per_row = chunk_tokens + lanes + 2;
  auto* memory = reinterpret_cast<float*>(scratch.take((rows * per_row + lanes) * sizeof(float)));
  tile_state state{};
  state.scores = memory;
  state.sums = state.scores + rows * chunk_tokens;
  state.peaks = state.sums + rows * lanes;
  state.shrink = state.peaks + rows;
  state.weighted = tile.out;  // the sums grow where the result will stand
  switch (code) {
    case vector_code::avx512:
      return attend_avx512(tile, state);
    case vector_code::avx2:
      return attend_avx2(tile, state);
    case vector_code::plain:
      return attend_plain(tile, state);
  }
}

}  // namespace troupe::router
