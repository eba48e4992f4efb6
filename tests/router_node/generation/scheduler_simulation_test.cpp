// The scheduler by seed: random arrivals, lengths and common beginnings, little memory, cancels, deadlines, stalls,
// approximations, failures, pins to models that change; steps take random times and are committed in any order.
//
// Always: a sequence is in one step at most, one step of each kind is in flight, budgets are kept, no block is written
// while another sequence reads it, and what stands before a part's rows is what its tokens say (fake_trunk).
// In the end: every sequence ended exactly once, with the text that it has alone; no block is in use.
//
// TROUPE_SIMULATION_SEEDS=n tries n seeds, TROUPE_SIMULATION_SEED=s replays one.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <queue>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "router_node/core/generation/scheduler.hpp"
#include "tests/router_node/generation/fake_trunk.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using testing::fake_trunk;

struct totals {
  std::uint64_t finished{}, timed_out{}, cancelled{}, failed{}, filled{}, refused{};
  std::uint64_t preemptions{}, cached_tokens{}, stalls{}, models{}, behind{};
};

class simulation {
 public:
  simulation(std::uint64_t seed, totals& sums)
      : random_(seed), sums_(sums), options_(random_options()), work_(options_), trunk_(options_.kv_blocks) {}

  void run() {
    common_.resize(pick(30, 150));
    for (auto& token : common_) token = pick(0, 3);
    if (chance(0.3)) {  // the same blocks again and again, behind different beginnings
      for (std::size_t i = 2 * limits::kv_block_tokens; i < common_.size(); ++i) {
        common_[i] = common_[i % limits::kv_block_tokens];
      }
    }
    const auto sequences = pick(1, 40);
    for (std::uint32_t i = 0; i < sequences; ++i) at(milliseconds(0, 2000), [this] { arrive(); });
    for (auto changes = options_.pins ? pick(1, 6) : 0; changes > 0; --changes) {
      at(milliseconds(0, 3000), [this] { chance(0.7) ? change_model() : work_.forget_prefixes(); });
    }
    while (!::testing::Test::HasFailure()) {
      look();
      if (!events_.empty()) {
        auto next = events_.top();
        events_.pop();
        now_ = next.at;
        next.act();
      } else if (!open_.empty()) {
        const auto wakeup = work_.next_wakeup(now_);
        ASSERT_TRUE(wakeup) << open_.size() << " sequences wait for nothing";
        now_ = *wakeup;
      } else {
        break;
      }
      ASSERT_LT(++rounds_, 200'000U) << "it does not come to an end";
    }
    check_end();
  }

 private:
  struct open_sequence {
    std::vector<token_number> tokens;
    std::uint32_t prompt{}, answers{};
    std::string client;
    bool is_impatient{};
    bool is_in_step{};
    bool is_cancelled{};  // in a step
    bool was_planned{};
    std::uint32_t trusted{~0U};  // K/V from this position on is rubbish: an approximation
    std::uint32_t computed{};
    std::uint64_t model{};  // on arrival; once it was planned: that it is pinned to
  };
  struct event {
    time_point at;
    std::uint64_t order{};
    std::function<void()> act;
    bool operator>(const event& other) const { return std::tie(at, order) > std::tie(other.at, other.order); }
  };
  struct flight {
    std::vector<std::uint64_t> ids;
    std::set<block_index> read, written;
  };

  std::uint32_t pick(std::uint32_t least, std::uint32_t most) {
    return std::uniform_int_distribution<std::uint32_t>(least, most)(random_);
  }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(random_); }
  std::chrono::nanoseconds milliseconds(std::uint32_t least, std::uint32_t most) {
    return std::chrono::microseconds(pick(least * 1000, most * 1000));
  }
  void at(std::chrono::nanoseconds later, std::function<void()> act) {
    events_.push({now_ + later, ++order_, std::move(act)});
  }

  scheduler_options random_options() {
    scheduler_options o;
    o.kv_blocks = pick(3, 40);
    o.prefill_step_tokens = pick(4, 80);
    o.prefill_turn_tokens = std::max(1U, o.prefill_step_tokens / pick(2, 8));
    o.running_max = pick(1, 12);
    o.running_per_client_max = pick(1, o.running_max);
    o.waiting_max = pick(5, 60);
    o.waiting_per_client_max = pick(2, o.waiting_max);
    stall_ = chance(0.5) ? 0.1 : 0;
    inexact_ = chance(0.3) ? 0.1 : 0;
    fail_ = chance(0.2) ? 0.02 : 0;
    cancel_ = chance(0.5) ? 0.2 : 0;
    impatient_ = chance(0.3) ? 0.3 : 0;
    o.pins = chance(0.4);
    return o;
  }

  // -- traffic

  void arrive() {
    open_sequence s;
    const auto capacity = static_cast<std::uint32_t>(work_.capacity_tokens());
    const auto shared = chance(0.6) ? pick(0, static_cast<std::uint32_t>(common_.size())) : 0;
    s.tokens.assign(common_.begin(), common_.begin() + shared);
    for (auto more = pick(shared == 0 ? 1 : 0, chance(0.2) ? capacity + 4 : 20); more > 0; --more) {
      s.tokens.push_back(pick(0, 3));
    }
    s.prompt = static_cast<std::uint32_t>(s.tokens.size());
    s.answers = pick(1, 60);
    s.client = std::string(1, static_cast<char>('a' + pick(0, 3)));
    s.is_impatient = chance(impatient_);
    s.model = model_;
    const auto deadline = now_ + (s.is_impatient ? milliseconds(0, 3000) : std::chrono::nanoseconds(1000h));
    const auto id = ++last_id_;
    const auto added = work_.add({id}, {s.tokens, s.prompt, chance(0.1), s.client, deadline}, now_);
    if (!added) {
      EXPECT_TRUE(added.error().code == errc::overloaded || s.prompt > capacity || deadline <= now_)
          << added.error().message;
      ++sums_.refused;
      return;
    }
    EXPECT_LE(s.prompt, capacity);
    open_.emplace(id, std::move(s));
    if (chance(cancel_)) at(milliseconds(0, 3000), [this, id] { cancel(id); });
  }

  // Other expert versions are served from now on.
  void change_model() {
    work_.change_model({++model_});
    ++sums_.models;
    sums_.behind += work_.behind();
  }

  void cancel(std::uint64_t id) {
    const auto s = open_.find(id);
    const bool is_open = s != open_.end() && !s->second.is_cancelled;
    EXPECT_EQ(work_.cancel({id}), is_open);
    if (!is_open) return;
    if (s->second.is_in_step) {
      s->second.is_cancelled = true;
    } else {
      open_.erase(s);
    }
    ++sums_.cancelled;
  }

  // -- steps

  void look() {
    while (auto step = work_.plan(now_)) {
      check_plan(*step);
      const auto id = step->id.value;
      // The rows are written at some time while the step is in flight.
      const bool is_early = chance(0.5);
      std::vector<step_outcome> outcomes;
      if (is_early) outcomes = compute(*step);
      at(milliseconds(1, 30), [this, id, is_early, plan = std::move(*step), outcomes = std::move(outcomes)]() mutable {
        if (!is_early) outcomes = compute(plan);
        commit(id, plan, outcomes);
      });
    }
    take_ended();
    ASSERT_EQ(work_.blocks().find_inconsistency(), "");
  }

  void check_plan(const step_plan& step) {
    ASSERT_FALSE(step.sequences.empty());
    ASSERT_LE(step.sequences.size(), options_.running_max);
    for (const auto& [id, f] : flights_) ASSERT_NE(kinds_[id], step.kind) << "two steps of a kind";
    kinds_[step.id.value] = step.kind;
    ASSERT_LT(flights_.size(), 2U);
    flight f;
    std::uint64_t rows = 0;
    for (const auto& part : step.sequences) {
      rows += part.tokens.size();
      check_part(part, step.kind);
      f.ids.push_back(part.id.value);
      for (std::size_t i = 0; i < part.blocks.size(); ++i) {
        const bool is_written = (i + 1) * limits::kv_block_tokens > part.first_position;
        ASSERT_TRUE((is_written ? f.written : f.read).insert(part.blocks[i]).second || !is_written)
            << "block " << part.blocks[i] << " is written twice";
      }
    }
    if (step.kind == step_kind::prefill) {
      ASSERT_LE(rows, options_.prefill_step_tokens);
    }
    check_blocks(f);
    flights_.emplace(step.id.value, std::move(f));
  }

  void check_part(const planned_sequence& part, step_kind kind) {
    const auto at = open_.find(part.id.value);
    ASSERT_NE(at, open_.end()) << "sequence " << part.id.value << " is over";
    auto& s = at->second;
    ASSERT_FALSE(std::exchange(s.is_in_step, true)) << "sequence " << part.id.value << " is in two steps";
    ASSERT_FALSE(part.tokens.empty());
    ASSERT_EQ(part.samples, part.first_position + part.tokens.size() == s.tokens.size());
    if (kind == step_kind::decode) {
      ASSERT_EQ(part.tokens.size(), 1U);
    }
    ASSERT_LE(part.cached_tokens, s.prompt);
    if (part.first_position < s.computed) s.trusted = ~0U;  // it was preempted and begins anew
    // It may have been admitted some changes before its first step.
    ASSERT_GE(part.model.value, s.model);
    ASSERT_LE(part.model.value, s.was_planned ? s.model : model_) << "sequence " << part.id.value << " left its model";
    s.model = part.model.value;
    if (!std::exchange(s.was_planned, true)) check_order(part.id.value, s.client);
  }

  // First come, first served among a client's sequences, but for those that have a place already.
  void check_order(std::uint64_t id, const std::string& client) {
    const auto overtaken = std::ranges::count_if(open_, [&](const auto& other) {
      return other.first < id && other.second.client == client && !other.second.was_planned;
    });
    ASSERT_LT(overtaken, options_.running_max);
  }

  void check_blocks(const flight& f) {
    const auto share_any = [](const std::set<block_index>& a, const std::set<block_index>& b) {
      return std::ranges::any_of(a, [&b](block_index block) { return b.contains(block); });
    };
    ASSERT_FALSE(share_any(f.written, f.read)) << "a block is read and written";
    for (const auto& [id, other] : flights_) {
      ASSERT_FALSE(share_any(f.written, other.written) || share_any(f.written, other.read) ||
                   share_any(f.read, other.written))
          << "a block is written beside another step";
    }
    for (const auto block : f.written) ASSERT_EQ(work_.blocks().users(block), 1U);
  }

  std::vector<step_outcome> compute(const step_plan& step) {
    std::vector<step_outcome> outcomes;
    for (const auto& part : step.sequences) {
      auto& s = open_.at(part.id.value);
      const bool is_stalled = chance(stall_);
      const bool is_exact = !is_stalled && s.trusted == ~0U && !chance(inexact_);
      const auto wrong = trunk_.compute(part, s.tokens, is_exact, s.trusted);
      EXPECT_EQ(wrong, "") << "sequence " << part.id.value;
      if (chance(fail_)) {
        outcomes.emplace_back(rows_failed{});
      } else if (is_stalled) {
        outcomes.emplace_back(rows_stalled{now_ + milliseconds(0, chance(0.1) ? 20'000 : 300)});
      } else if (part.samples) {
        const bool is_last = s.tokens.size() + 1 == s.prompt + s.answers;
        outcomes.emplace_back(token_sampled{fake_trunk::next_token(s.tokens), is_last, is_exact});
      } else {
        outcomes.emplace_back(rows_computed{is_exact});
      }
    }
    return outcomes;
  }

  void commit(std::uint64_t id, const step_plan& step, const std::vector<step_outcome>& outcomes) {
    flights_.erase(id);
    for (std::size_t i = 0; i < outcomes.size(); ++i) note_outcome(step.sequences[i], outcomes[i]);
    work_.commit(step.id, outcomes, now_);
    take_ended();
  }

  void note_outcome(const planned_sequence& part, const step_outcome& outcome) {
    const auto at = open_.find(part.id.value);
    auto& s = at->second;
    s.is_in_step = false;
    if (s.is_cancelled || std::holds_alternative<rows_failed>(outcome)) {
      sums_.failed += s.is_cancelled ? 0 : 1;
      open_.erase(at);
      return;
    }
    if (std::holds_alternative<rows_stalled>(outcome)) return;
    s.computed = part.first_position + static_cast<std::uint32_t>(part.tokens.size());
    const auto* sampled = std::get_if<token_sampled>(&outcome);
    const bool is_exact = sampled != nullptr ? sampled->is_exact : std::get<rows_computed>(outcome).is_exact;
    if (!is_exact) s.trusted = std::min(s.trusted, part.first_position);
    if (sampled == nullptr) return;
    s.tokens.push_back(sampled->token);
    if (sampled->is_last) {
      check_text(s, s.answers);
      ++sums_.finished;
      open_.erase(at);
    }
  }

  void check_text(const open_sequence& s, std::uint32_t answers) {
    const std::vector<token_number> prompt(s.tokens.begin(), s.tokens.begin() + s.prompt);
    const auto alone = fake_trunk::answer_alone(prompt, answers);
    EXPECT_TRUE(std::equal(s.tokens.begin() + s.prompt, s.tokens.end(), alone.begin(), alone.end()));
  }

  void take_ended() {
    for (const auto& ended : work_.take_ended()) {
      const auto at = open_.find(ended.id.value);
      ASSERT_NE(at, open_.end()) << "sequence " << ended.id.value << " ended twice";
      const auto& s = at->second;
      if (ended.reason.code == errc::timeout) {
        EXPECT_TRUE(s.is_impatient);
        ++sums_.timed_out;
      } else {
        EXPECT_EQ(ended.reason.code, errc::out_of_memory);
        EXPECT_EQ(s.tokens.size(), work_.capacity_tokens() + 1);
        check_text(s, static_cast<std::uint32_t>(s.tokens.size()) - s.prompt);
        ++sums_.filled;
      }
      open_.erase(at);
    }
  }

  void check_end() {
    EXPECT_EQ(work_.blocks().in_use(), 0U);
    EXPECT_EQ(work_.running(), 0U);
    EXPECT_EQ(work_.waiting(), 0U);
    EXPECT_EQ(work_.steps_in_flight(), 0U);
    EXPECT_EQ(work_.blocks().find_inconsistency(), "");
    sums_.preemptions += work_.counters().preemptions;
    sums_.cached_tokens += work_.counters().cached_tokens;
    sums_.stalls += work_.counters().stalls;
  }

  std::mt19937_64 random_;
  totals& sums_;
  double stall_{}, inexact_{}, fail_{}, cancel_{}, impatient_{};
  scheduler_options options_;
  scheduler work_;
  fake_trunk trunk_;
  std::vector<token_number> common_;
  time_point now_{time_point{} + 1h};
  std::uint64_t order_{}, last_id_{}, rounds_{}, model_{};
  std::map<std::uint64_t, open_sequence> open_;
  std::map<std::uint64_t, flight> flights_;
  std::map<std::uint64_t, step_kind> kinds_;
  std::priority_queue<event, std::vector<event>, std::greater<>> events_;
};

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : std::stoull(value);
}

TEST(scheduler_simulation, every_sequence_ends_with_the_text_that_it_has_alone) {
  totals sums;
  const auto only = number_from("TROUPE_SIMULATION_SEED", 0);
  const auto first = only != 0 ? only : 1;
  const auto count = only != 0 ? 1 : number_from("TROUPE_SIMULATION_SEEDS", 3000);
  for (auto seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("TROUPE_SIMULATION_SEED=" + std::to_string(seed));
    simulation(seed, sums).run();
    if (HasFailure()) return;
  }
  if (only != 0) return;
  // The world was as hostile as it should be.
  for (const auto seen : {sums.finished, sums.timed_out, sums.cancelled, sums.failed, sums.filled, sums.refused,
                          sums.preemptions, sums.stalls, sums.models, sums.behind}) {
    EXPECT_GT(seen, count / 20);
  }
  EXPECT_GT(sums.cached_tokens, count * 20);
}

}  // namespace
}  // namespace troupe::router
