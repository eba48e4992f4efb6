// Keys and values of all tokens that are remembered: one allocation, cut into blocks of 16 tokens per layer. Which
// block belongs to which sequence is the scheduler's; the same block number means the same tokens in every layer.
//
// Inside a block each KV head has its keys, then its values, both in the form in which the attention kernel reads them
// straight through (dims are padded to a multiple of 16 with zeros):
//
//   keys    bf16 [dims / 2][16 tokens][2]    f32 [dims][16 tokens]
//   values  bf16 [16 tokens / 2][dims][2]    f32 [16 tokens][dims]
//
// Thread rule: one thread, or several that write different tokens or heads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "common/tensor.hpp"
#include "compute/arena.hpp"

namespace troupe::router {

struct kv_shape {
  dtype type{dtype::bf16};  // f32 or bf16
  std::uint32_t layers{};
  std::uint32_t kv_heads{};
  std::uint32_t head_dim{};

  [[nodiscard]] std::uint32_t dims() const { return (head_dim + 15) / 16 * 16; }
  // Of one KV head's keys, or of its values, in one block.
  [[nodiscard]] std::size_t head_bytes() const {
    return std::size_t{limits::kv_block_tokens} * dims() * bytes_per_element(type);
  }
  [[nodiscard]] std::size_t block_bytes() const { return 2 * head_bytes() * kv_heads; }  // in one layer
};

class kv_memory {
 public:
  kv_memory() = default;
  // As many blocks as fit into `bytes`. invalid_request naming the smallest size when not even one fits;
  // out_of_memory. Pages that were never written are not resident.
  [[nodiscard]] static result<kv_memory> make(const kv_shape& shape, std::uint64_t bytes);

  [[nodiscard]] const kv_shape& shape() const { return shape_; }
  [[nodiscard]] std::uint32_t blocks() const { return blocks_; }
  // Block 0 of the layer; the others follow, block_bytes() each.
  [[nodiscard]] std::byte* layer(std::uint32_t layer) const;

  // key, value: [head_dim] f32 of one KV head of the token at place `token` of the block.
  void write(std::uint32_t layer, std::uint32_t block, std::uint32_t token, std::uint32_t head, const float* key,
             const float* value);

 private:
  kv_shape shape_;
  std::uint32_t blocks_{};
  compute::slot_arena arena_;  // one slot
};

}  // namespace troupe::router
