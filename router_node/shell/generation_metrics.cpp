#include "router_node/shell/generation_metrics.hpp"

#include <array>

#include "router_node/core/generation/scheduler.hpp"

namespace troupe::router {
namespace {

// Those of vLLM's time_to_first_token_seconds, so that its dashboards read ours: a thousandth of a second to 40
// minutes.
constexpr std::array first_token_bounds{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                                        1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};

double seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

http::metric_family one(const char* name, const char* help, http::metric_kind kind, double value) {
  http::metric_family family{name, help, kind};
  family.add({}, value);
  return family;
}

http::metric_family one(const char* name, const char* help, const http::histogram& values) {
  http::metric_family family{name, help, http::metric_kind::histogram};
  family.add({}, values);
  return family;
}

}  // namespace

generation_metrics::generation_metrics()
    : first_token_(first_token_bounds), next_token_(http::latency_bounds()), duration_(first_token_bounds) {}

void generation_metrics::on_first_token(std::chrono::nanoseconds since_arrival) {
  first_token_.observe(seconds(since_arrival));
}

void generation_metrics::on_next_token(std::chrono::nanoseconds since_last) {
  next_token_.observe(seconds(since_last));
}

void generation_metrics::on_end(const generation_end& end, std::chrono::nanoseconds since_arrival) {
  (end.reason == finish_reason::stop ? stop_ : length_).add();
  prompt_tokens_.add(end.prompt_tokens);
  answer_tokens_.add(end.answer_tokens);
  approximate_tokens_.add(end.approximate_tokens);
  duration_.observe(seconds(since_arrival));
}

void generation_metrics::on_error(errc code) {
  if (code == errc::timeout) return expired_.add();
  (code == errc::overloaded ? rejected_ : error_).add();
}

void generation_metrics::refresh(const scheduler& s) {
  running_.set(static_cast<double>(s.running()));
  waiting_.set(static_cast<double>(s.waiting()));
  stalled_.set(static_cast<double>(s.stalled()));
  blocks_used_ratio_.set(static_cast<double>(s.blocks().in_use()) / static_cast<double>(s.blocks().size()));
  cached_tokens_.set(static_cast<double>(s.counters().cached_tokens));
  preemptions_.set(static_cast<double>(s.counters().preemptions));
  steps_.set(static_cast<double>(s.counters().steps));
  behind_.set(static_cast<double>(s.behind()));
  unpinned_.set(static_cast<double>(s.counters().unpinned));
}

text_load generation_metrics::load() const { return {running_.value(), waiting_.value()}; }

void generation_metrics::collect(std::vector<http::metric_family>& families) const {
  using enum http::metric_kind;
  families.push_back(
      one("moe_time_to_first_token_seconds", "From a request for text to its first token.", first_token_));
  families.push_back(one("moe_inter_token_latency_seconds", "From one token of a text to the next.", next_token_));
  families.push_back(one("moe_generation_duration_seconds", "From a request for text to its end.", duration_));
  http::metric_family ends{"moe_generations_total", "Requests for text by outcome.", counter};
  ends.add({{"outcome", "stop"}}, stop_.value());
  ends.add({{"outcome", "length"}}, length_.value());
  ends.add({{"outcome", "error"}}, error_.value());
  ends.add({{"outcome", "aborted"}}, aborted_.value());
  ends.add({{"outcome", "rejected"}}, rejected_.value());
  ends.add({{"outcome", "expired"}}, expired_.value());
  families.push_back(std::move(ends));
  families.push_back(
      one("moe_prompt_tokens_total", "Tokens of prompts that were answered.", counter, prompt_tokens_.value()));
  families.push_back(one("moe_generation_tokens_total", "Tokens of answers.", counter, answer_tokens_.value()));
  families.push_back(one("moe_approximate_tokens_total", "Tokens of answers whose experts were not all exact.", counter,
                         approximate_tokens_.value()));
  families.push_back(one("moe_prefix_cache_tokens_total", "Tokens of prompts found in the prefix cache.", counter,
                         cached_tokens_.value()));
  families.push_back(one("moe_preemptions_total", "Texts that gave up their key-value blocks for others.", counter,
                         preemptions_.value()));
  families.push_back(one("moe_generation_steps_total", "Steps of the trunk.", counter, steps_.value()));
  families.push_back(one("moe_generations_running", "Texts that are being computed.", gauge, running_.value()));
  families.push_back(one("moe_generations_waiting", "Texts that wait for a place.", gauge, waiting_.value()));
  families.push_back(one("moe_generations_stalled", "Texts that wait for an expert.", gauge, stalled_.value()));
  families.push_back(one("moe_generations_pinned_behind",
                         "Texts that go by expert versions that are served no more (--pin-streams).", gauge,
                         behind_.value()));
  families.push_back(one("moe_generations_unpinned_total",
                         "Texts that had to go on with other expert versions than they were pinned to.", counter,
                         unpinned_.value()));
  families.push_back(
      one("moe_kv_cache_usage_ratio", "Blocks in use of all key-value blocks.", gauge, blocks_used_ratio_.value()));
}

}  // namespace troupe::router
