// Softmax attention of a few query rows that share one KV head, over keys and values in blocks: the inner loop of the
// trunk. Sums are f32. Online softmax (Milakov and Gimelshein, arXiv:1805.02867): keys pass once, in chunks of 64
// tokens, while each row keeps its largest score so far, the sum of exponentials, and the weighted sum of values.
//
// Chunks begin at multiples of 64 tokens and every row's arithmetic is its own, so a row's result does not depend on
// which other rows are computed beside it.
//
// Compiled for AVX-512, AVX2 and any x86-64, chosen once at run time; results of the three differ in the last bits.
// Pure; any thread, each with its own scratch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/tensor.hpp"
#include "compute/scratch.hpp"

namespace troupe::router {

struct attention_tile {
  // Keys and values of the layer, as kv_memory lays them out.
  dtype type{dtype::bf16};
  std::uint32_t dims{};            // padded to a multiple of 16
  const std::byte* first_block{};  // block 0 of the layer, at this KV head
  std::size_t block_bytes{};       // from one block to the next
  std::size_t head_bytes{};        // from a head's keys to its values
  const std::uint32_t* blocks{};   // of the sequence, by position / 16

  // Row r is query head r % group of the token at first_position + r / group. Queries are already scaled.
  std::uint32_t first_position{};
  std::uint32_t tokens{};
  std::uint32_t group{};       // query heads that share this KV head
  std::uint32_t window{};      // 0: all keys up to the token's own
  const float* queries{};      // [tokens][group][dims]; a token's heads side by side
  std::size_t query_stride{};  // elements from one token to the next
  float* out{};                // [tokens * group][dims], without a gap
};

// The code that this processor runs fastest, and all that come before it.
enum class vector_code : std::uint8_t { plain, avx2, avx512 };
[[nodiscard]] vector_code best_vector_code();

// Throws std::bad_alloc. @pre code <= best_vector_code()
void attend_tile(const attention_tile& tile, compute::scratch_buffer& scratch, vector_code code = best_vector_code());

}  // namespace troupe::router
