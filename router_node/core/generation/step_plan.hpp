// What goes in and out of the scheduler: sequences, steps to be computed, what became of them. Plain values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "router_node/core/generation/kv_block_pool.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

using sequence_id = strong_number<struct sequence_tag>;  // the caller's, never used again
using step_id = strong_number<struct step_tag>;

// One text that grows. A request with n answers is n sequences; they share the prompt's blocks.
struct new_sequence {
  std::vector<token_number> tokens;  // the prompt, then what is answered already (a resumed stream)
  std::uint32_t prompt_tokens{};     // [1, tokens.size()]
  // Logits of all rows of the prompt are wanted (prompt logprobs): nothing of it is taken from the prefix cache.
  bool wants_all_rows{};
  std::string client;
  time_point deadline;
};

// One sequence's part of a step. The spans are valid until the step is committed.
struct planned_sequence {
  sequence_id id;
  std::uint32_t first_position{};        // of tokens[0] in the sequence; everything before it is in the KV memory
  std::span<const token_number> tokens;  // [R] to be computed; their K/V are written
  std::span<const block_index> blocks;   // position p is in blocks[p / limits::kv_block_tokens]; enough for all R rows
  bool samples{};                        // the logits of the last row choose the next token
  // Logits of the other rows are wanted too. After a preemption rows may come again, from position 0.
  bool wants_all_rows{};
  std::uint32_t cached_tokens{};  // of the prompt, found in the prefix cache instead of computed
  epoch_number model{};           // version_history: whose expert versions its rows go by
};

enum class step_kind : std::uint8_t { decode, prefill };

struct step_plan {
  step_id id;
  step_kind kind{};
  std::vector<planned_sequence> sequences;  // [1, ...], oldest first
};

// What became of one sequence's part of a step.
// The rows count, nothing was sampled. @pre !samples
struct rows_computed {
  bool is_exact{true};  // false: some row is an approximation; others must not find it in the prefix cache
};
// The rows count, and this is the next token. @pre samples
struct token_sampled {
  token_number token{};
  bool is_last{};  // the sequence is over
  bool is_exact{true};
};
// An expert is missing: the rows do not count and are tried again at that time.
struct rows_stalled {
  time_point until;
};
// The sequence is over, its rows do not count.
struct rows_failed {};

using step_outcome = std::variant<rows_computed, token_sampled, rows_stalled, rows_failed>;

// A sequence that the scheduler ended itself.
struct ended_sequence {
  sequence_id id;
  error reason;  // timeout, or out_of_memory when it has filled the whole KV memory
};

}  // namespace troupe::router
