// Strong identifiers of everything the cluster names. Plain values: copyable, ordered, thread-free.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace troupe {

// An unsigned number that cannot be mistaken for another kind of number.
template <class Tag, class Value = std::uint64_t>
struct strong_number {
  Value value{};
  friend constexpr auto operator<=>(strong_number, strong_number) = default;
};

using epoch_number = strong_number<struct epoch_tag>;  // numbers cluster maps; never goes back
using term_number = strong_number<struct term_tag>;    // numbers coordinators; a larger one fences a smaller
using incarnation_number = strong_number<struct incarnation_tag>;          // one run of one node's process
using request_id = strong_number<struct request_tag>;                      // unique per router process
using slot_index = strong_number<struct slot_tag, std::uint32_t>;          // a slot of one expert node's arena
using token_number = std::uint32_t;                                        // a row of the embedding table
using weights_version = strong_number<struct version_tag, std::uint32_t>;  // starts at 1; 0 means "none"

// Which stack of blocks a layer belongs to: decoder-only models have one, encoder-decoder models two.
enum class layer_stack : std::uint8_t { plain = 0, encoder = 1, decoder = 2 };

// A MoE block, numbered as in the checkpoint. `value` = stack << 24 | block, which is what goes over the wire.
struct layer_id {
  std::uint32_t value{};

  [[nodiscard]] static constexpr layer_id of(std::uint32_t block, layer_stack stack = layer_stack::plain) {
    return {static_cast<std::uint32_t>(stack) << 24 | (block & 0xffffffU)};
  }
  [[nodiscard]] constexpr std::uint32_t block() const { return value & 0xffffffU; }
  [[nodiscard]] constexpr layer_stack stack() const { return static_cast<layer_stack>(value >> 24); }
  friend constexpr auto operator<=>(layer_id, layer_id) = default;
};

// "3", "encoder.3" or "decoder.1".
[[nodiscard]] std::string to_string(layer_id layer);
// nullopt when the text is none of the three forms, or the block number does not fit 24 bits.
[[nodiscard]] std::optional<layer_id> parse_layer(std::string_view text);

// A logical expert: layer and index in the layer. People write it "L/E".
struct expert_id {
  layer_id layer;
  std::uint32_t index{};
  friend constexpr auto operator<=>(const expert_id&, const expert_id&) = default;
};

[[nodiscard]] std::string to_string(const expert_id& expert);
[[nodiscard]] std::optional<expert_id> parse_expert(std::string_view text);

// The name of a node, unique in its cluster, e.g. "expert-0". [a-z0-9][a-z0-9.-]{0,62}
struct node_id {
  std::string value;
  friend auto operator<=>(const node_id&, const node_id&) = default;
};

[[nodiscard]] bool is_valid_node_name(std::string_view name);

}  // namespace troupe

template <>
struct std::hash<troupe::expert_id> {
  std::size_t operator()(const troupe::expert_id& e) const noexcept {
    return std::hash<std::uint64_t>{}(std::uint64_t{e.layer.value} << 32 | e.index);
  }
};

template <>
struct std::hash<troupe::node_id> {
  std::size_t operator()(const troupe::node_id& n) const noexcept { return std::hash<std::string>{}(n.value); }
};
