// One sequence inside the scheduler. Plain value of its thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "router_node/core/generation/step_plan.hpp"

namespace troupe::router {

struct sequence_in_line {};  // new or preempted: has no blocks
struct sequence_ready {};
struct sequence_in_step {
  std::uint32_t rows{};
  bool is_cancelled{};
};
struct sequence_stalled {
  time_point until;
};
using sequence_state = std::variant<sequence_in_line, sequence_ready, sequence_in_step, sequence_stalled>;

struct sequence {
  sequence(sequence_id number, new_sequence input) : id(number), request(std::move(input)) {}

  [[nodiscard]] std::vector<token_number>& tokens() { return request.tokens; }
  [[nodiscard]] std::uint32_t length() const { return static_cast<std::uint32_t>(request.tokens.size()); }
  // Tokens that have to be computed before the next one can be sampled; never 0.
  [[nodiscard]] std::uint32_t remaining() const { return length() - computed; }
  [[nodiscard]] std::uint32_t blocks_missing() const {
    const auto wanted_blocks = blocks_for(length());
    return wanted_blocks - std::min(wanted_blocks, static_cast<std::uint32_t>(blocks.size()));
  }
  // The tokens of block number `index`. @pre the block is full
  [[nodiscard]] std::span<const token_number> block_tokens(std::uint32_t index) const {
    return std::span(request.tokens).subspan(std::size_t{index} * limits::kv_block_tokens, limits::kv_block_tokens);
  }
  template <class State>
  [[nodiscard]] bool is() const {
    return std::holds_alternative<State>(state);
  }

  sequence_id id;
  new_sequence request;  // its tokens grow
  sequence_state state{sequence_in_line{}};
  std::uint64_t age{};  // order of first admissions, from 1; 0: not yet admitted
  bool was_preempted{};
  epoch_number model{};                     // version_history: that its rows are computed by
  prefix_number root;                       // what its first block stands behind, whenever it begins anew
  std::optional<time_point> stalled_since;  // no rows have counted since
  time_point retry_at{};                    // preempted while stalled: not to be admitted before

  std::vector<block_index> blocks;
  std::uint32_t computed{};      // the first tokens, whose K/V are in the blocks
  std::uint32_t known_blocks{};  // the first blocks, which the pool knows
  prefix_number prefix;          // of these
  bool is_exact{true};           // so far all rows are; an inexact row ends what may be known
  std::uint32_t cached_tokens{};

  std::uint64_t served{};       // the last step that had a part of it
  std::uint32_t share{};        // rows in the prefill step that is being planned
  std::uint32_t short_until{};  // blocks for so many tokens could not be had; 0: nothing is missing
};

}  // namespace troupe::router
