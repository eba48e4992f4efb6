// What has become of operations since this coordinator started: for the metrics page. Plain values.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <utility>

#include "coordinator/core/output.hpp"

namespace troupe::coordinator {

struct operation_totals {
  // A migration takes from milliseconds (a small expert, on this machine) to minutes (GiB over a slow network).
  static constexpr std::array<double, 12> seconds_bounds{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};

  std::map<std::pair<operation_kind, operation_state>, std::uint64_t> ended;
  std::uint64_t migrations_begun{};
  std::array<std::uint64_t, seconds_bounds.size() + 1> migrations_by_seconds{};  // of those done; the last one: longer
  double migration_seconds{};                                                    // of all of them
  std::uint64_t refreshes_unchanged{};                                           // that found nothing new
  // When weights were last known to be as new as their folder: a refresh was done, or found nothing new. 0: never.
  std::int64_t refreshed_unix_ms{};

  void count_migration(std::chrono::milliseconds took) {
    const double seconds = std::chrono::duration<double>(took).count();
    std::size_t bucket = 0;
    while (bucket < seconds_bounds.size() && seconds > seconds_bounds[bucket]) ++bucket;
    ++migrations_by_seconds[bucket];
    migration_seconds += seconds;
  }
};

}  // namespace troupe::coordinator
