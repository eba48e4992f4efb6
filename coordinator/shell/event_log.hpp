// The newest limits::events_kept_max events, numbered from 1. One thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

#include "coordinator/core/output.hpp"

namespace troupe::coordinator {

class event_log {
 public:
  struct entry {
    std::uint64_t id{};
    std::chrono::system_clock::time_point when;
    operator_event what;
  };

  void add(operator_event what, std::chrono::system_clock::time_point when);
  [[nodiscard]] const std::deque<entry>& entries() const { return entries_; }

 private:
  std::deque<entry> entries_;
  std::uint64_t last_id_{};
};

}  // namespace troupe::coordinator
