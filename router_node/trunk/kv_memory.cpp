#include "router_node/trunk/kv_memory.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>

#include <fmt/format.h>

namespace troupe::router {

result<kv_memory> kv_memory::make(const kv_shape& shape, std::uint64_t bytes) {
  assert(shape.type == dtype::bf16 || shape.type == dtype::f32);
  std::uint64_t bytes_per_block = std::uint64_t{shape.layers} * shape.block_bytes();
  if (bytes < bytes_per_block) {
    return fail(
        errc::invalid_request,
        fmt::format("{} bytes for keys and values do not hold one block of {} tokens, which takes {}; give more", bytes,
                    limits::kv_block_tokens, bytes_per_block));
  }
  kv_memory made;
  made.shape_ = shape;
  made.blocks_ = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(bytes / bytes_per_block, std::numeric_limits<std::uint32_t>::max()));
  auto arena = compute::slot_arena::make(1, made.blocks_ * bytes_per_block);
  if (!arena) return fail(arena.error());
  made.arena_ = std::move(*arena);
  return made;
}

std::byte* kv_memory::layer(std::uint32_t layer) const {
  return arena_.slot({0}).data() + std::size_t{layer} * blocks_ * shape_.block_bytes();
}

namespace {

template <class Value, class Convert>
void write_pairs(std::byte* keys, std::byte* values, const kv_shape& shape, std::uint32_t token, const float* key,
                 const float* value, Convert convert) {
  constexpr std::size_t tokens = limits::kv_block_tokens;
  // Two dims of a key, and two tokens of a value, stand side by side in bf16; in f32 nothing does.
  constexpr std::size_t side_by_side = sizeof(float) / sizeof(Value);
  std::size_t dims = shape.dims();
  auto store = [&](std::byte* base, std::size_t index, float x) {
    Value narrow = convert(x);
    std::memcpy(base + index * sizeof narrow, &narrow, sizeof narrow);
  };
  std::size_t value_row = token / side_by_side * dims * side_by_side + token % side_by_side;
  for (std::size_t d = 0; d < dims; ++d) {
    bool padding = d >= shape.head_dim;
    std::size_t key_row = d / side_by_side * tokens * side_by_side + d % side_by_side;
    store(keys, key_row + token * side_by_side, padding ? 0.0F : key[d]);
    store(values, value_row + d * side_by_side, padding ? 0.0F : value[d]);
  }
}

}  // namespace

void kv_memory::write(std::uint32_t layer_number, std::uint32_t block, std::uint32_t token, std::uint32_t head,
                      const float* key, const float* value) {
  assert(block < blocks_ && token < limits::kv_block_tokens && head < shape_.kv_heads);
  std::byte* keys = layer(layer_number) + std::size_t{block} * shape_.block_bytes() + head * 2 * shape_.head_bytes();
  std::byte* values = keys + shape_.head_bytes();
  if (shape_.type == dtype::bf16) {
    write_pairs<std::uint16_t>(keys, values, shape_, token, key, value, f32_to_bf16);
  } else {
    write_pairs<float>(keys, values, shape_, token, key, value, [](float x) { return x; });
  }
}

}  // namespace troupe::router
