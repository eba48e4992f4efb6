// Counts the heartbeats of one peer that should have come and did not, from how long it has been silent. One that is
// late by less than an interval is not missed. Plain value.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "common/limits.hpp"

namespace troupe {

class missed_heartbeats {
 public:
  // To be called now and then; what was missed in between counts all the same while the silence lasts.
  void look(std::chrono::nanoseconds silence) {
    const auto due = std::max<std::int64_t>(silence / limits::heartbeat_interval - 1, 0);
    if (due > in_this_silence_) total_ += static_cast<std::uint64_t>(due - in_this_silence_);
    in_this_silence_ = due;
  }
  [[nodiscard]] std::uint64_t total() const { return total_; }

 private:
  std::int64_t in_this_silence_{};
  std::uint64_t total_{};
};

}  // namespace troupe
