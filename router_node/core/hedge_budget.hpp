// Keeps hedged calls a small share of all: every first call earns a twentieth of one, and nothing else does, so that at
// any time since start at most that share was sent. Single-threaded plain value.
#pragma once

#include <algorithm>
#include <cstddef>

#include "common/limits.hpp"

namespace troupe::router {

class hedge_budget {
 public:
  void earn() { tokens_ = std::min(tokens_ + limits::hedge_share_max, limits::hedge_burst_max); }

  [[nodiscard]] bool can_spend(std::size_t calls) const { return tokens_ >= static_cast<double>(calls); }

  // False, and nothing is spent: there is not enough.
  [[nodiscard]] bool spend(std::size_t calls) {
    if (!can_spend(calls)) return false;
    tokens_ -= static_cast<double>(calls);
    return true;
  }

 private:
  double tokens_{};
};

}  // namespace troupe::router
