// The scheduler's steps: what goes into them and what comes of them.
#include <algorithm>
#include <cassert>
#include <utility>

#include <fmt/format.h>

#include "router_node/core/generation/scheduler.hpp"
#include "router_node/core/generation/sequence.hpp"

namespace troupe::router {
namespace {

// Is `b` about to compute the block that `a` computes? Then its content will be known when a's step is committed.
bool begins_like(const sequence& b, const sequence& a) {
  const auto end = (a.known_blocks + 1) * limits::kv_block_tokens;
  return a.is_exact && a.prefix == b.prefix && a.known_blocks == b.known_blocks &&
         b.computed == b.known_blocks * limits::kv_block_tokens && !b.request.wants_all_rows && end <= a.length() &&
         end < b.length() && std::ranges::equal(a.block_tokens(a.known_blocks), b.block_tokens(b.known_blocks));
}

}  // namespace

std::optional<step_plan> scheduler::plan(time_point now) {
  expire(now);
  wake_stalled(now);
  serve_short_of_blocks();
  admit(now);
  for (auto* s : running_) {
    if (s->is<sequence_ready>() && s->remaining() > 1) count_cached(*s, take_prefix(*s));
  }
  auto next = plan_decode();
  return next ? std::move(next) : plan_prefill();
}

std::optional<step_plan> scheduler::plan_decode() {
  if (decode_) return std::nullopt;
  step_plan plan{step_id{last_step_ + 1}, step_kind::decode, {}};
  step in_flight{plan.id, {}};
  const auto oldest_first = running_;  // growing takes younger ones out
  for (auto* s : oldest_first) {
    if (!s->is<sequence_ready>() || s->remaining() != 1) continue;
    if (grow(*s, s->length())) include(*s, 1, plan, in_flight);
  }
  return launch(std::move(plan), std::move(in_flight), decode_);
}

std::optional<step_plan> scheduler::plan_prefill() {
  if (prefill_) return std::nullopt;
  step_plan plan{step_id{last_step_ + 1}, step_kind::prefill, {}};
  step in_flight{plan.id, {}};
  const auto oldest_first = prefill_candidates();
  deal_tokens(oldest_first);
  for (auto* s : oldest_first) {
    if (!s->is<sequence_ready>() || s->share == 0) continue;  // gave up its blocks, or gets nothing this time
    auto rows = s->share;
    if (!grow(*s, s->computed + rows)) {
      const auto room = static_cast<std::uint32_t>(s->blocks.size()) * limits::kv_block_tokens - s->computed;
      rows = std::min(rows, room);
    }
    if (rows > 0) include(*s, rows, plan, in_flight);
  }
  return launch(std::move(plan), std::move(in_flight), prefill_);
}

std::optional<step_plan> scheduler::launch(step_plan plan, step in_flight, std::optional<step>& slot) {
  if (plan.sequences.empty()) return std::nullopt;
  ++last_step_;
  ++counters_.steps;
  slot = std::move(in_flight);
  return plan;
}

// Ready ones with more than one token left, oldest first, without those that only have to wait for an older one.
std::vector<sequence*> scheduler::prefill_candidates() {
  std::vector<sequence*> candidates;
  for (auto* s : running_) {
    if (!s->is<sequence_ready>() || s->remaining() <= 1) continue;
    const bool waits = std::ranges::any_of(candidates, [s](const sequence* older) { return begins_like(*s, *older); });
    if (!waits) candidates.push_back(s);
  }
  return candidates;
}

// Sets each candidate's share of the step's tokens: half of them in turns, what is left to the oldest first.
void scheduler::deal_tokens(std::span<sequence* const> oldest_first) const {
  for (auto* s : oldest_first) s->share = 0;
  auto in_turns = options_.prefill_step_tokens / 2;
  auto left = options_.prefill_step_tokens;
  std::vector<sequence*> longest_waiting(oldest_first.begin(), oldest_first.end());
  std::ranges::stable_sort(longest_waiting, {}, &sequence::served);
  for (auto* s : longest_waiting) {
    s->share = std::min({options_.prefill_turn_tokens, s->remaining(), in_turns});
    in_turns -= s->share;
    left -= s->share;
  }
  for (auto* s : oldest_first) {
    const auto more = std::min(left, s->remaining() - s->share);
    s->share += more;
    left -= more;
  }
}

void scheduler::include(sequence& s, std::uint32_t rows, step_plan& plan, step& in_flight) {
  s.state = sequence_in_step{rows};
  s.served = plan.id.value;
  in_flight.sequences.push_back(&s);
  plan.sequences.push_back({.id = s.id,
                            .first_position = s.computed,
                            .tokens = std::span(s.request.tokens).subspan(s.computed, rows),
                            .blocks = s.blocks,
                            .samples = rows == s.remaining(),
                            .wants_all_rows = s.request.wants_all_rows,
                            .cached_tokens = s.cached_tokens,
                            .model = s.model});
}

// -- commit -------------------------------------------------------------------------------------------------------

void scheduler::commit(step_id id, std::span<const step_outcome> outcomes, time_point now) {
  auto& slot = decode_ && decode_->id == id ? decode_ : prefill_;
  assert(slot && slot->id == id && slot->sequences.size() == outcomes.size());
  const auto done = std::exchange(slot, std::nullopt);
  for (std::size_t i = 0; i < outcomes.size(); ++i) settle(*done->sequences[i], outcomes[i], now);
}

void scheduler::settle(sequence& s, const step_outcome& outcome, time_point now) {
  const auto part = std::get<sequence_in_step>(s.state);
  s.state = sequence_ready{};
  if (part.is_cancelled || std::holds_alternative<rows_failed>(outcome)) return remove(s);
  if (const auto* stalled = std::get_if<rows_stalled>(&outcome)) {
    s.state = sequence_stalled{stalled->until};
    if (!s.stalled_since) s.stalled_since = now;
    ++counters_.stalls;
    return;
  }
  if (const auto* computed = std::get_if<rows_computed>(&outcome)) return count_rows(s, part.rows, computed->is_exact);
  const auto& sampled = std::get<token_sampled>(outcome);
  count_rows(s, part.rows, sampled.is_exact);
  assert(s.computed == s.length());
  if (sampled.is_last) return remove(s);
  s.tokens().push_back(sampled.token);
  s.request.wants_all_rows = false;
  if (s.length() > capacity_tokens()) {
    end(s, {errc::out_of_memory,
            fmt::format("prompt and answer have filled the KV memory of {} tokens; ask for a shorter answer or start "
                        "the router with more --kv-memory",
                        capacity_tokens())});
  }
}

void scheduler::count_rows(sequence& s, std::uint32_t rows, bool is_exact) {
  counters_.computed_tokens += rows;
  s.computed += rows;
  s.stalled_since.reset();
  s.is_exact = s.is_exact && is_exact;
  publish_blocks(s);
}

}  // namespace troupe::router
