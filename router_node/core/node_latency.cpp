#include "router_node/core/node_latency.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::router {
namespace {

constexpr double above = 3;
constexpr double well = 2;
constexpr std::uint32_t checks_to_slow = 4;
constexpr std::uint32_t checks_to_quarantine = 12;
constexpr std::uint32_t checks_to_normal = 4;
constexpr std::uint32_t calls_min = 8;  // fewer say nothing, unless one waits for very long
constexpr std::size_t samples_max = 256;
constexpr std::size_t samples_for_p95 = 32;

double seconds_of(time_point::duration d) { return std::chrono::duration<double>(d).count(); }

// The lower one of two in the middle. @pre !values.empty()
double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

}  // namespace

node_latency::node& node_latency::at(host_index host) {
  if (host >= nodes_.size()) nodes_.resize(host + 1);
  return nodes_[host];
}

// -- calls --------------------------------------------------------------------------------------------------------

void node_latency::on_sent(host_index host, const call_id& id, call_size size, time_point now) {
  at(host).under_way.emplace(id, call_under_way{now, size});
}

void node_latency::on_answer(host_index host, const call_id& id, time_point now) {
  auto& n = at(host);
  const auto known = n.under_way.find(id);
  if (known == n.under_way.end()) return;
  const auto [sent, size] = known->second;
  n.under_way.erase(known);
  const auto taken = seconds_of(now - sent);
  if (n.pace == node_pace::normal) cost_.record(size, taken);
  const auto expected = cost_.expected(size);
  if (expected <= 0) return;
  keep(n, {taken, expected}, now);
}

void node_latency::keep(node& n, const sample& s, time_point ended) {
  n.samples.push_back(s);
  if (n.samples.size() > samples_max) n.samples.pop_front();
  if (n.intervals.empty() || ended - n.intervals.back().begin >= limits::node_pace_check_interval) {
    n.intervals.push_back({.begin = ended});
  }
  while (ended - n.intervals.front().begin > limits::node_pace_window) n.intervals.pop_front();
  auto& newest = n.intervals.back();
  newest.taken += s.taken;
  newest.expected += s.expected;
  ++newest.calls;
}

void node_latency::forget(host_index host, const call_id& id) { at(host).under_way.erase(id); }

void node_latency::on_link(host_index host, std::optional<incarnation_number> incarnation) {
  auto& n = at(host);
  n.under_way.clear();
  if (!incarnation || n.incarnation == incarnation) return;
  n = {};
  n.incarnation = incarnation;
}

// -- what is known ------------------------------------------------------------------------------------------------

node_pace node_latency::pace(host_index host) const {
  const auto* n = find(host);
  return n == nullptr ? node_pace::normal : n->pace;
}

double node_latency::slowness(host_index host) const {
  const auto* n = find(host);
  return n == nullptr ? 1 : n->slowness;
}

std::size_t node_latency::calls_under_way(host_index host) const {
  const auto* n = find(host);
  return n == nullptr ? 0 : n->under_way.size();
}

std::optional<std::chrono::nanoseconds> node_latency::usual_longest(call_size size) const {
  if (!p95_) return std::nullopt;
  const std::chrono::duration<double> longest(*p95_ * cost_.expected(size));
  return std::chrono::duration_cast<std::chrono::nanoseconds>(longest);
}

bool node_latency::wants_probe(host_index host, time_point now) const {
  const auto* n = find(host);
  return n != nullptr && n->pace != node_pace::normal && n->under_way.empty() && n->next_probe <= now;
}

void node_latency::on_probe(host_index host, time_point now, std::mt19937_64& random) {
  // Not in step with whatever makes the host slow.
  std::uniform_real_distribution<double> jitter(0.5, 1.5);
  const std::chrono::duration<double> pause = limits::node_probe_interval * jitter(random);
  at(host).next_probe = now + std::chrono::duration_cast<std::chrono::nanoseconds>(pause);
}

// -- checks -------------------------------------------------------------------------------------------------------

node_latency::score node_latency::score_of(const node& n, time_point now) const {
  score sum;
  if (n.pace == node_pace::quarantined) {
    // Probes are rare: it is judged by the last few, however old.
    for (auto i = n.samples.size() - std::min<std::size_t>(n.samples.size(), calls_min); i < n.samples.size(); ++i) {
      sum.taken += n.samples[i].taken;
      sum.expected += n.samples[i].expected;
      ++sum.calls;
    }
  } else {
    for (const auto& i : n.intervals) {
      if (now - i.begin > limits::node_pace_window) continue;
      sum.taken += i.taken;
      sum.expected += i.expected;
      sum.calls += i.calls;
    }
  }
  for (const auto& [id, call] : n.under_way) {
    const auto waited = seconds_of(now - call.sent);
    const auto expected = cost_.expected(call.size);
    if (expected <= 0 || waited <= well * expected) continue;
    sum.taken += waited;
    sum.expected += expected;
    sum.longest_wait = std::max(sum.longest_wait, waited);
    ++sum.calls;
  }
  return sum;
}

bool node_latency::is_telling(const node& n, const score& s) {
  if (s.expected <= 0) return false;
  if (s.calls >= calls_min) return true;
  return n.pace != node_pace::quarantined && s.longest_wait > seconds_of(limits::node_silence_telling);
}

std::vector<node_latency::change> node_latency::check(time_point now) {
  next_check_ = now + limits::node_pace_check_interval;
  std::vector<score> scores;
  for (const auto& n : nodes_) scores.push_back(score_of(n, now));
  std::vector<change> changes;
  for (host_index host = 0; host < nodes_.size(); ++host) {
    if (!is_telling(nodes_[host], scores[host])) continue;
    std::vector<double> others;
    for (host_index other = 0; other < nodes_.size(); ++other) {
      const auto& n = nodes_[other];
      if (other != host && n.pace != node_pace::quarantined && is_telling(n, scores[other])) {
        others.push_back(scores[other].ratio());
      }
    }
    if (!others.empty()) judge(host, scores[host], median(std::move(others)), changes);
  }
  refresh_p95();
  return changes;
}

void node_latency::judge(host_index host, const score& own, double others, std::vector<change>& changes) {
  auto& n = nodes_[host];
  const auto excess = (own.taken - others * own.expected) / own.calls;
  const bool is_excess = excess > seconds_of(limits::node_slow_excess_min);
  const bool is_above = own.ratio() > above * others && is_excess;
  const bool is_well = own.ratio() < well * others || !is_excess;
  n.checks_above = is_above ? n.checks_above + 1 : 0;
  n.checks_well = is_well ? n.checks_well + 1 : 0;
  if (n.pace != node_pace::normal) n.slowness = std::max(1.0, own.ratio() / others);
  if (n.pace == node_pace::normal && n.checks_above >= checks_to_slow) {
    enter(host, node_pace::slow, own, others, changes);
  } else if (n.pace == node_pace::slow && n.checks_above >= checks_to_quarantine) {
    enter(host, node_pace::quarantined, own, others, changes);
  } else if (n.pace == node_pace::slow && n.checks_well >= checks_to_normal) {
    enter(host, node_pace::normal, own, others, changes);
  } else if (n.pace == node_pace::quarantined && is_well) {  // eight probes in a row
    enter(host, node_pace::normal, own, others, changes);
  }
}

void node_latency::enter(host_index host, node_pace pace, const score& own, double others,
                         std::vector<change>& changes) {
  auto& n = nodes_[host];
  const auto usual = 1e3 * others * own.expected / own.calls;
  changes.push_back(
      {host, n.pace, pace,
       fmt::format("{:.2f} ms per call, {:.1f} x the {:.2f} ms that such calls take elsewhere, in {} calls",
                   1e3 * own.taken / own.calls, own.ratio() / others, usual, own.calls)});
  n.pace = pace;
  n.slowness = pace == node_pace::normal ? 1 : std::max(1.0, own.ratio() / others);
  n.checks_well = 0;
  if (pace == node_pace::slow) return;  // its samples count on towards quarantine
  n.checks_above = 0;
  n.samples.clear();
  n.intervals.clear();
}

// The cost of sorting is that of 256 numbers per host and check.
void node_latency::refresh_p95() {
  std::vector<double> by_host;
  std::vector<double> ratios;
  for (const auto& n : nodes_) {
    if (n.pace != node_pace::normal || n.samples.size() < samples_for_p95) continue;
    ratios.clear();
    for (const auto& s : n.samples) ratios.push_back(s.taken / s.expected);
    const auto place = ratios.begin() + static_cast<std::ptrdiff_t>(ratios.size() * 95 / 100);
    std::ranges::nth_element(ratios, place);
    by_host.push_back(*place);
  }
  if (!by_host.empty()) p95_ = median(std::move(by_host));
}

}  // namespace troupe::router
