// Decides which tokens of which sequences are computed together, and where their keys and values live (continuous
// batching over paged KV memory). Pure and single-threaded; the time comes in as an argument.
//
//   add ─> in line ── admitted ──> ready ── plan ──> in a step ── commit ──> ready | stalled | over
//             ^                      │                                          │
//             └────── preempted ─────┴──────────────────────────────────────────┘
//
// * Two steps may be in flight, one of each kind, so that one's attention runs while the other waits for experts. The
//   decode step has every ready sequence with one token left to compute. The prefill step has pieces of longer ones,
//   limits::prefill_step_tokens in all. A sequence is in one step at most. (Halves of the decoders would be two steps
//   too, but would read each expert's weights twice.)
// * Prefill: half of the step's tokens is dealt out in pieces of prefill_turn_tokens to those that were served longest
//   ago, the rest goes to the oldest. So the oldest has at least half, and with n prompts under way each moves on at
//   least once in n / 4 steps, however long the others are.
// * A prompt does not compute what is in the prefix cache, except its last token, whose logits are needed; nor what
//   another one computes in this very step: it waits for that one's blocks.
// * Places (sequences_running_max) are given by turns of clients (fair_line). Nobody overtakes: who is next waits until
//   all its tokens fit beside what those under way still need.
// * A stalled sequence (an expert of its rows has no replica) keeps its blocks and its place while others go on; after
//   limits::stall_patience without progress it gives them up to whoever waits in line.
// * No block left: the youngest sequence that is not in a step gives up its blocks and is recomputed later, before
//   anybody new; stalled ones first. Blocks go to the oldest first, so the oldest always gets on. What the preempted
//   one has computed mostly stays in the prefix cache until others need the memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "router_node/core/generation/fair_line.hpp"
#include "router_node/core/generation/kv_block_pool.hpp"
#include "router_node/core/generation/step_plan.hpp"

namespace troupe::router {

struct sequence;

struct scheduler_options {
  std::uint32_t kv_blocks{};  // of limits::kv_block_tokens tokens
  bool pins{};                // sequences go on with the model that they were first admitted under
  std::uint32_t prefill_step_tokens{limits::prefill_step_tokens};
  std::uint32_t prefill_turn_tokens{limits::prefill_turn_tokens};
  std::uint32_t running_max{limits::sequences_running_max};
  std::uint32_t running_per_client_max{limits::sequences_running_per_client_max};
  std::uint32_t waiting_max{limits::sequences_waiting_max};
  std::uint32_t waiting_per_client_max{limits::sequences_waiting_per_client_max};
  std::uint64_t tokens_waiting_max{limits::prompt_tokens_waiting_max};
  std::uint64_t tokens_waiting_per_client_max{limits::prompt_tokens_waiting_per_client_max};
};

// Totals since start, for metrics.
struct scheduler_counters {
  std::uint64_t steps{};
  std::uint64_t computed_tokens{};  // rows that counted
  std::uint64_t cached_tokens{};    // found in the prefix cache instead
  std::uint64_t preemptions{};
  std::uint64_t stalls{};
  std::uint64_t expired{};    // deadline passed before any work was done (faults.md O10)
  std::uint64_t timed_out{};  // deadline passed later
  std::uint64_t refused{};    // overloaded
  std::uint64_t unpinned{};
};

class scheduler {
 public:
  explicit scheduler(const scheduler_options& options);
  ~scheduler();

  // Puts a sequence in line. Refused at once, nothing is kept then:
  //   invalid_request  it has more tokens than the KV memory (both numbers are in the message)
  //   timeout          its deadline has passed (counts as expired)
  //   overloaded       too many sequences or tokens wait, of all clients or of this one; see retry_after
  // @pre the id is new; 1 <= prompt_tokens <= tokens.size()
  [[nodiscard]] result<void> add(sequence_id id, new_sequence sequence, time_point now);

  // How long a client that was refused as overloaded should wait: what the line in front of it takes at the pace of
  // the last admissions, within limits::generation_retry_min and _max.
  [[nodiscard]] std::chrono::seconds retry_after(const std::string& client) const;

  // The sequence is no longer wanted. In a step: its part is ignored at commit and its blocks live until then.
  // False: it is over already.
  bool cancel(sequence_id id);

  // The next step to compute now; nullopt: nothing can be done before a commit, an add, or next_wakeup. To be asked
  // until it says nullopt, after each of these. @post the step is in flight
  [[nodiscard]] std::optional<step_plan> plan(time_point now);

  // What became of a step; one outcome for each of its sequences, in their order. Of cancelled ones any.
  // @pre the step is in flight
  void commit(step_id id, std::span<const step_outcome> outcomes, time_point now);

  // Sequences that ended without the caller's doing, since last asked. plan() and commit() make them.
  [[nodiscard]] std::vector<ended_sequence> take_ended();

  // Other experts are masked from now on: what is in the prefix cache serves only sequences that have begun.
  void forget_prefixes();
  // Other versions of experts are served from now on, as forget_prefixes says. Sequences that are pinned share with
  // those of their model what that model computed. @pre model > every one before
  void change_model(epoch_number model);
  // The sequence goes on with the newest model, from its next rows on. What it computes beside older rows is not known
  // to others.
  void unpin(sequence_id id);
  // Of all sequences that were admitted; the newest one when there are none.
  [[nodiscard]] epoch_number oldest_model() const;
  // How many sequences go by an older one than the newest.
  [[nodiscard]] std::size_t behind() const;

  // When plan has something to do without a commit (deadlines, ends of stalls), after a plan at `now` that said
  // nullopt. nullopt: never.
  [[nodiscard]] std::optional<time_point> next_wakeup(time_point now) const;

  // Most tokens (prompt and answer) that one sequence can have in the KV memory. The answer's last token needs none.
  [[nodiscard]] std::uint64_t capacity_tokens() const { return std::uint64_t{pool_.size()} * limits::kv_block_tokens; }
  [[nodiscard]] std::size_t waiting() const { return line_.size() + preempted_.size(); }
  [[nodiscard]] std::size_t running() const { return running_.size(); }
  [[nodiscard]] std::size_t stalled() const;
  [[nodiscard]] std::size_t steps_in_flight() const { return decode_.has_value() + prefill_.has_value(); }
  [[nodiscard]] const scheduler_counters& counters() const { return counters_; }
  [[nodiscard]] const kv_block_pool& blocks() const { return pool_; }

 private:
  struct step {
    step_id id;
    std::vector<sequence*> sequences;
  };

  // -- line and places (scheduler.cpp)
  [[nodiscard]] result<void> check_admission(const new_sequence& s, time_point now);
  void expire(time_point now);
  void wake_stalled(time_point now);
  void admit(time_point now);
  [[nodiscard]] sequence* next_in_line(time_point now);
  [[nodiscard]] bool fits(sequence& s);
  void note_admission(time_point now);
  void end(sequence& s, error reason);
  void remove(sequence& s);
  void leave_place(sequence& s);

  // -- steps (scheduler_steps.cpp)
  [[nodiscard]] std::optional<step_plan> plan_decode();
  [[nodiscard]] std::optional<step_plan> plan_prefill();
  [[nodiscard]] std::optional<step_plan> launch(step_plan plan, step in_flight, std::optional<step>& slot);
  [[nodiscard]] std::vector<sequence*> prefill_candidates();
  void deal_tokens(std::span<sequence* const> candidates) const;
  void include(sequence& s, std::uint32_t rows, step_plan& plan, step& in_flight);
  void settle(sequence& s, const step_outcome& outcome, time_point now);
  void count_rows(sequence& s, std::uint32_t rows, bool is_exact);

  // -- memory (scheduler_memory.cpp)
  std::uint32_t take_prefix(sequence& s);
  void count_cached(sequence& s, std::uint32_t tokens);
  void publish_blocks(sequence& s);
  bool grow(sequence& s, std::uint32_t tokens);
  void serve_short_of_blocks();
  [[nodiscard]] sequence* find_victim(const sequence& s);
  [[nodiscard]] sequence* find_hopeless(time_point now);
  void preempt(sequence& s);
  void release_blocks(sequence& s);

  scheduler_options options_;
  kv_block_pool pool_;
  fair_line line_;
  std::unordered_map<std::uint64_t, std::unique_ptr<sequence>> sequences_;  // all, by id
  std::vector<sequence*> preempted_;                                        // oldest first; before line_
  std::vector<sequence*> running_;                                          // oldest first
  std::unordered_map<std::string, std::uint32_t> running_of_;               // by client
  epoch_number model_;                                                      // the newest
  std::optional<step> decode_, prefill_;
  std::uint64_t last_step_{}, last_age_{};
  std::optional<time_point> admitted_at_;
  std::chrono::duration<double> admission_interval_{};  // moving average
  std::vector<ended_sequence> ended_;
  scheduler_counters counters_;
};

}  // namespace troupe::router
