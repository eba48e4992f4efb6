#include "router_node/core/generation/scheduler.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "router_node/core/generation/sequence.hpp"

namespace troupe::router {
namespace {

// How much one admission counts in the average pace.
constexpr double pace_share = 1.0 / 16;

}  // namespace

scheduler::scheduler(const scheduler_options& options) : options_(options), pool_(options.kv_blocks) {}

scheduler::~scheduler() = default;

// -- in and out ---------------------------------------------------------------------------------------------------

result<void> scheduler::add(sequence_id id, new_sequence s, time_point now) {
  assert(!sequences_.contains(id.value) && s.prompt_tokens >= 1 && s.prompt_tokens <= s.tokens.size());
  if (auto admitted = check_admission(s, now); !admitted) return admitted;
  line_.push(s.client, id, s.tokens.size());
  auto& added = *sequences_.emplace(id.value, std::make_unique<sequence>(id, std::move(s))).first->second;
  added.model = model_;
  added.prefix = added.root = pool_.root();
  return {};
}

result<void> scheduler::check_admission(const new_sequence& s, time_point now) {
  if (s.tokens.size() > capacity_tokens()) {
    return fail(errc::invalid_request,
                fmt::format("a prompt of {} tokens does not fit the KV memory of {} tokens; shorten it or start the "
                            "router with more --kv-memory",
                            s.tokens.size(), capacity_tokens()));
  }
  if (s.deadline <= now) {
    ++counters_.expired;
    return fail(errc::timeout, "the deadline has passed before the request began");
  }
  const bool is_full = line_.size() >= options_.waiting_max || line_.tokens() >= options_.tokens_waiting_max;
  if (!is_full && line_.size_of(s.client) < options_.waiting_per_client_max &&
      line_.tokens_of(s.client) < options_.tokens_waiting_per_client_max) {
    return {};
  }
  ++counters_.refused;
  const auto pause = retry_after(s.client).count();
  if (is_full) {
    return fail(errc::overloaded, fmt::format("{} sequences with {} tokens are waiting; retry after {} s", line_.size(),
                                              line_.tokens(), pause));
  }
  return fail(errc::overloaded, fmt::format("{} sequences with {} tokens of this client are waiting; retry after {} s",
                                            line_.size_of(s.client), line_.tokens_of(s.client), pause));
}

std::chrono::seconds scheduler::retry_after(const std::string& client) const {
  const bool is_full = line_.size() >= options_.waiting_max || line_.tokens() >= options_.tokens_waiting_max;
  const auto in_front = static_cast<double>(is_full ? line_.size() : line_.size_of(client));
  // Half of them: who comes back then finds room, and still keeps its turn short.
  const auto seconds = std::ceil(admission_interval_.count() * in_front / 2);
  const auto longest = limits::generation_retry_max;
  if (seconds >= static_cast<double>(longest.count())) return longest;
  return std::max(limits::generation_retry_min, std::chrono::seconds(static_cast<std::int64_t>(seconds)));
}

bool scheduler::cancel(sequence_id id) {
  const auto at = sequences_.find(id.value);
  if (at == sequences_.end()) return false;
  auto& s = *at->second;
  if (auto* in_step = std::get_if<sequence_in_step>(&s.state)) {
    return !std::exchange(in_step->is_cancelled, true);
  }
  remove(s);
  return true;
}

std::vector<ended_sequence> scheduler::take_ended() { return std::exchange(ended_, {}); }

std::size_t scheduler::stalled() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(running_, [](const sequence* s) { return s->is<sequence_stalled>(); }));
}

void scheduler::end(sequence& s, error reason) {
  ended_.push_back({s.id, std::move(reason)});
  remove(s);
}

void scheduler::remove(sequence& s) {
  leave_place(s);
  release_blocks(s);
  sequences_.erase(s.id.value);
}

void scheduler::leave_place(sequence& s) {
  if (s.is<sequence_in_line>()) {
    if (s.age == 0) {
      line_.remove(s.request.client, s.id);
    } else {
      std::erase(preempted_, &s);
    }
    return;
  }
  std::erase(running_, &s);
  const auto count = running_of_.find(s.request.client);
  if (--count->second == 0) running_of_.erase(count);
}

// -- time ---------------------------------------------------------------------------------------------------------

std::optional<time_point> scheduler::next_wakeup(time_point now) const {
  std::optional<time_point> next;
  const auto consider = [&next, now](time_point at) {
    if (at > now) next = next ? std::min(*next, at) : at;
  };
  for (const auto& [id, s] : sequences_) {
    if (s->is<sequence_in_step>()) continue;
    consider(s->request.deadline);
    consider(s->retry_at);
    if (s->stalled_since) consider(*s->stalled_since + limits::stall_patience);
    if (const auto* stalled = std::get_if<sequence_stalled>(&s->state)) consider(stalled->until);
  }
  return next;
}

void scheduler::expire(time_point now) {
  std::vector<sequence*> late;
  for (const auto& [id, s] : sequences_) {
    if (s->request.deadline <= now && !s->is<sequence_in_step>()) late.push_back(s.get());
  }
  std::ranges::sort(late, {}, [](const sequence* s) { return s->id; });
  for (auto* s : late) {
    const bool has_begun = s->age != 0;
    ++(has_begun ? counters_.timed_out : counters_.expired);
    end(*s, {errc::timeout, has_begun ? fmt::format("the deadline has passed after {} tokens of the answer",
                                                    s->length() - s->request.prompt_tokens)
                                      : "the deadline has passed before the request began"});
  }
}

void scheduler::wake_stalled(time_point now) {
  for (auto* s : running_) {
    const auto* stalled = std::get_if<sequence_stalled>(&s->state);
    if (stalled != nullptr && stalled->until <= now) s->state = sequence_ready{};
  }
}

// -- places -------------------------------------------------------------------------------------------------------

void scheduler::admit(time_point now) {
  while (auto* s = next_in_line(now)) {
    while (running_.size() >= options_.running_max || !fits(*s)) {
      auto* hopeless = s->stalled_since ? nullptr : find_hopeless(now);
      if (hopeless == nullptr) return;
      preempt(*hopeless);
    }
    if (s->age == 0) {
      line_.serve(s->request.client, s->id);
      s->age = ++last_age_;
      note_admission(now);
    } else {
      std::erase(preempted_, s);
    }
    s->state = sequence_ready{};
    count_cached(*s, s->computed);
    running_.insert(std::ranges::upper_bound(running_, s->age, {}, &sequence::age), s);
    ++running_of_[s->request.client];
  }
}

sequence* scheduler::next_in_line(time_point now) {
  const auto preempted = std::ranges::find_if(preempted_, [now](const sequence* s) { return s->retry_at <= now; });
  if (preempted != preempted_.end()) return *preempted;
  const auto id = line_.next([this](const std::string& client) {
    const auto count = running_of_.find(client);
    return count == running_of_.end() || count->second < options_.running_per_client_max;
  });
  return id ? sequences_.at(id->value).get() : nullptr;
}

// Takes what the prefix cache has, and keeps it if the rest fits too: beside what those under way still lack for their
// tokens so far, and one block more for each of them to grow. When nothing is under way everything else is free.
bool scheduler::fits(sequence& s) {
  (void)take_prefix(s);
  std::uint64_t wanted = s.blocks_missing() + running_.size();
  for (const auto* r : running_) wanted += r->blocks_missing();
  if (running_.empty() || wanted <= pool_.free()) return true;
  release_blocks(s);
  return false;
}

void scheduler::note_admission(time_point now) {
  if (admitted_at_) {
    const std::chrono::duration<double> interval = now - *admitted_at_;
    admission_interval_ += (interval - admission_interval_) * pace_share;
  }
  // Without a line the next admission says nothing about the pace.
  admitted_at_ = line_.size() > 0 ? std::optional(now) : std::nullopt;
}

}  // namespace troupe::router
