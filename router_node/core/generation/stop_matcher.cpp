#include "router_node/core/generation/stop_matcher.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace troupe::router {

stop_matcher::stop_matcher(const std::vector<std::string>& stops) {
  for (const auto& stop : stops) {
    if (stop.empty()) continue;
    automaton a{stop, {0}, 0};
    for (std::size_t i = 1; i < stop.size(); ++i) {
      advance(a, stop[i]);
      a.fallback.push_back(a.matched);
    }
    a.matched = 0;
    automata_.push_back(std::move(a));
  }
}

void stop_matcher::advance(automaton& a, char byte) {
  while (a.matched > 0 && a.stop[a.matched] != byte) a.matched = a.fallback[a.matched - 1];
  if (a.stop[a.matched] == byte) ++a.matched;
}

stop_matcher::piece stop_matcher::push(std::string_view text) {
  if (is_over_) return {};
  for (const char byte : text) {
    held_.push_back(byte);
    const automaton* longest = nullptr;
    for (auto& a : automata_) {
      advance(a, byte);
      const bool is_complete = a.matched == a.stop.size();
      if (is_complete && (longest == nullptr || a.stop.size() > longest->stop.size())) longest = &a;
    }
    if (longest == nullptr) continue;
    is_over_ = true;
    held_.resize(held_.size() - longest->stop.size());
    return {std::exchange(held_, {}), longest->stop};
  }
  std::size_t hold = 0;
  for (const auto& a : automata_) hold = std::max<std::size_t>(hold, a.matched);
  auto shown = held_.substr(0, held_.size() - hold);
  held_.erase(0, shown.size());
  return {std::move(shown), std::nullopt};
}

std::string stop_matcher::finish() {
  is_over_ = true;
  return std::exchange(held_, {});
}

}  // namespace troupe::router
