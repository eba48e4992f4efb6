// Keeps second attempts a small share of the traffic, so that recovery does not become a storm (faults.md O9).
// A token bucket: every first attempt earns a tenth of a retry, time earns a few more. Single-threaded plain value.
#pragma once

#include <algorithm>
#include <chrono>

#include "common/limits.hpp"

namespace troupe::router {

class retry_budget {
 public:
  void earn() { tokens_ = std::min(tokens_ + limits::retry_share_max, limits::retry_burst_max); }

  // A retry was answered: this is recovery, no storm.
  void refund() { tokens_ = std::min(tokens_ + 1, limits::retry_burst_max); }

  // False: the retry has to wait.
  [[nodiscard]] bool spend(std::chrono::steady_clock::time_point now) {
    if (now > filled_at_) {
      const std::chrono::duration<double> passed = now - filled_at_;
      tokens_ = std::min(tokens_ + passed.count() * limits::retries_per_second_min, limits::retry_burst_max);
    }
    filled_at_ = now;
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  double tokens_{limits::retry_burst_max};
  std::chrono::steady_clock::time_point filled_at_{};
};

}  // namespace troupe::router
