// The attention kernel against plain f64 loops, and its promise that a row does not see how it is tiled.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "router_node/trunk/attention_kernel.hpp"
#include "router_node/trunk/kv_memory.hpp"
#include "tests/router_node/trunk/reference_decoder.hpp"

namespace troupe::router::test {
namespace {

constexpr std::uint32_t block_tokens = limits::kv_block_tokens;

struct attention_case {
  dtype type;
  std::uint32_t head_dim;
  std::uint32_t kv_heads;
  std::uint32_t group;
  std::uint32_t tokens;  // of the sequence
  std::uint32_t window;
};

// A sequence of random queries, keys and values, its keys and values in blocks in descending order. What no token
// stands in is NaN, as after other sequences that went wrong.
class sequence_memory {
 public:
  explicit sequence_memory(const attention_case& c) : c_(c) {
    kv_shape shape{.type = c.type, .layers = 2, .kv_heads = c.kv_heads, .head_dim = c.head_dim};
    std::uint32_t blocks = (c.tokens + block_tokens - 1) / block_tokens;
    auto made = kv_memory::make(shape, 2 * std::uint64_t{blocks} * shape.block_bytes());
    EXPECT_TRUE(made) << made.error().message;
    memory_ = std::move(*made);
    for (std::uint32_t b = blocks; b-- > 0;) blocks_.push_back(b);
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    auto fill = [&](std::vector<float>& values, std::size_t heads) {
      values.resize(c.tokens * heads * c.head_dim);
      for (auto& x : values) x = bf16_to_f32(f32_to_bf16(normal(random)));
    };
    fill(queries_, std::size_t{c.kv_heads} * c.group);
    fill(keys_, c.kv_heads);
    fill(values_, c.kv_heads);
    std::vector<float> nothing(c.head_dim, std::numeric_limits<float>::quiet_NaN());
    for (std::uint32_t t = 0; t < blocks * block_tokens; ++t) {
      for (std::uint32_t h = 0; h < c.kv_heads; ++h) {
        bool used = t < c.tokens;
        memory_.write(1, blocks_[t / block_tokens], t % block_tokens, h, used ? key(t, h) : nothing.data(),
                      used ? value(t, h) : nothing.data());
      }
    }
  }

  // [tokens * group, head_dim] of one KV head.
  std::vector<float> attend(std::uint32_t kv_head, std::uint32_t first, std::uint32_t tokens,
                            vector_code code = best_vector_code()) {
    const auto& shape = memory_.shape();
    std::size_t dims = shape.dims();
    std::vector<float> padded(std::size_t{tokens} * c_.group * dims, 0.0F);
    for (std::size_t row = 0; row < std::size_t{tokens} * c_.group; ++row) {
      std::copy_n(query(first + static_cast<std::uint32_t>(row / c_.group), kv_head, row % c_.group), c_.head_dim,
                  padded.begin() + static_cast<std::ptrdiff_t>(row * dims));
    }
    std::vector<float> out(padded.size(), NAN);
    attend_tile({.type = c_.type,
                 .dims = shape.dims(),
                 .first_block = memory_.layer(1) + kv_head * 2 * shape.head_bytes(),
                 .block_bytes = shape.block_bytes(),
                 .head_bytes = shape.head_bytes(),
                 .blocks = blocks_.data(),
                 .first_position = first,
                 .tokens = tokens,
                 .group = c_.group,
                 .window = c_.window,
                 .queries = padded.data(),
                 .query_stride = c_.group * dims,
                 .out = out.data()},
                scratch_, code);
    std::vector<float> rows;
    for (std::size_t row = 0; row < std::size_t{tokens} * c_.group; ++row) {
      auto begin = out.begin() + static_cast<std::ptrdiff_t>(row * dims);
      rows.insert(rows.end(), begin, begin + c_.head_dim);
    }
    return rows;
  }

  std::vector<float> expected(std::uint32_t kv_head, std::uint32_t first, std::uint32_t tokens) {
    std::vector<float> rows;
    for (std::uint32_t t = first; t < first + tokens; ++t) {
      for (std::uint32_t g = 0; g < c_.group; ++g) append_expected(kv_head, t, g, rows);
    }
    return rows;
  }

 private:
  [[nodiscard]] const float* query(std::uint32_t t, std::uint32_t h, std::size_t g) const {
    return queries_.data() + ((std::size_t{t} * c_.kv_heads + h) * c_.group + g) * c_.head_dim;
  }
  [[nodiscard]] const float* key(std::uint32_t t, std::uint32_t h) const {
    return keys_.data() + (std::size_t{t} * c_.kv_heads + h) * c_.head_dim;
  }
  [[nodiscard]] const float* value(std::uint32_t t, std::uint32_t h) const {
    return values_.data() + (std::size_t{t} * c_.kv_heads + h) * c_.head_dim;
  }

  void append_expected(std::uint32_t h, std::uint32_t t, std::uint32_t g, std::vector<float>& rows) const {
    std::uint32_t begin = c_.window == 0 || t + 1 <= c_.window ? 0 : t + 1 - c_.window;
    std::vector<double> scores;
    double peak = -INFINITY;
    for (std::uint32_t k = begin; k <= t; ++k) {
      double sum = 0;
      for (std::uint32_t d = 0; d < c_.head_dim; ++d) sum += double{query(t, h, g)[d]} * key(k, h)[d];
      scores.push_back(sum);
      peak = std::max(peak, sum);
    }
    double total = 0;
    for (auto& s : scores) total += s = std::exp(s - peak);
    for (std::uint32_t d = 0; d < c_.head_dim; ++d) {
      double sum = 0;
      for (std::uint32_t k = begin; k <= t; ++k) sum += scores[k - begin] * value(k, h)[d];
      rows.push_back(static_cast<float>(sum / total));
    }
  }

  attention_case c_;
  kv_memory memory_;
  std::vector<std::uint32_t> blocks_;
  std::vector<float> queries_, keys_, values_;
  compute::scratch_buffer scratch_;
};

class attention_kernel : public ::testing::TestWithParam<attention_case> {};

TEST_P(attention_kernel, agrees_with_f64) {
  auto c = GetParam();
  sequence_memory memory(c);
  for (std::uint32_t head = 0; head < c.kv_heads; ++head) {
    for (std::uint32_t first = 0; first < c.tokens; first += 9) {
      auto tokens = std::min(9U, c.tokens - first);
      auto expected = memory.expected(head, first, tokens);
      for (auto code : {vector_code::plain, vector_code::avx2, vector_code::avx512}) {
        if (code > best_vector_code()) continue;
        EXPECT_LE(share_of_peak(memory.attend(head, first, tokens, code), expected), 4e-6)
            << "head " << head << " from " << first << " code " << static_cast<int>(code);
      }
    }
  }
}

TEST_P(attention_kernel, gives_the_same_bits_however_rows_are_tiled) {
  auto c = GetParam();
  sequence_memory memory(c);
  auto whole = memory.attend(c.kv_heads - 1, 0, c.tokens);
  for (std::uint32_t size : {1U, 2U, 7U, 40U}) {
    std::vector<float> pieces;
    for (std::uint32_t first = 0; first < c.tokens; first += size) {
      auto part = memory.attend(c.kv_heads - 1, first, std::min(size, c.tokens - first));
      pieces.insert(pieces.end(), part.begin(), part.end());
    }
    EXPECT_EQ(pieces, whole) << size << " tokens at a time";
  }
}

INSTANTIATE_TEST_SUITE_P(
    shapes, attention_kernel,
    ::testing::Values(attention_case{dtype::bf16, 64, 2, 4, 300, 0}, attention_case{dtype::f32, 64, 2, 4, 300, 0},
                      attention_case{dtype::bf16, 128, 1, 7, 130, 33}, attention_case{dtype::f32, 80, 1, 1, 200, 64},
                      attention_case{dtype::bf16, 8, 3, 2, 65, 1}, attention_case{dtype::f32, 20, 1, 3, 64, 0},
                      attention_case{dtype::bf16, 24, 1, 41, 17, 0}, attention_case{dtype::bf16, 96, 2, 8, 257, 100}));

}  // namespace
}  // namespace troupe::router::test
