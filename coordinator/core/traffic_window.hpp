// Rows (or whatever is counted) per expert: totals since the coordinator started, and those of the last minutes or
// hours. Belongs to one thread at a time; time is passed in.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

#include "common/ids.hpp"
#include "common/limits.hpp"

namespace troupe::coordinator {

class traffic_window {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  // `length` is looked at in limits::traffic_window_buckets parts: the oldest one is forgotten as a whole.
  explicit traffic_window(std::chrono::steady_clock::duration length = limits::traffic_window) : length_(length) {}

  struct usage {
    std::uint64_t rows_total{};
    std::uint64_t rows_in_window{};
    std::uint64_t rows_recent{};  // of those, in the last third of the window at most: its newest two buckets
    std::optional<time_point> last_used;
  };

  // `rows_total`: rows of this expert on this node since its incarnation began. Repeated and late reports count once.
  // Returns the rows since its last report; 0 for the first one.
  std::uint64_t report(const node_id& node, incarnation_number incarnation, const expert_id& expert,
                       std::uint64_t rows_total, time_point now);
  [[nodiscard]] usage of(const expert_id& expert, time_point now) const;
  void forget(const node_id& node);

  // -- over a restart
  using parts = std::array<std::uint64_t, limits::traffic_window_buckets>;  // of the window, the oldest first
  [[nodiscard]] parts parts_of(const expert_id& expert, time_point now) const;
  // As they were at that time. @pre nothing was reported of the expert yet
  void restore(const expert_id& expert, const parts& rows, time_point as_of);
  // What this incarnation reported before is counted already, as far as it will be: the first total that it tells of an
  // expert is where its rows begin.
  void begin_with_next_report(const node_id& node, incarnation_number incarnation);

 private:
  struct series {
    std::uint64_t rows_total{};
    std::optional<time_point> last_used;
    std::array<std::uint64_t, limits::traffic_window_buckets> buckets{};
    std::int64_t newest{};  // number of the bucket written last
  };
  struct source {
    incarnation_number incarnation;
    std::unordered_map<expert_id, std::uint64_t> rows;
    bool was_there{};  // before a restart
  };

  [[nodiscard]] std::int64_t bucket_number(time_point now) const;

  std::chrono::steady_clock::duration length_;
  std::unordered_map<expert_id, series> series_;
  std::map<node_id, source> sources_;
};

}  // namespace troupe::coordinator
