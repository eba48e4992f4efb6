// Which experts rows chose together in the last minute, over all routers. Belongs to one thread at a time; time is
// passed in. Per layer at most limits::traffic_window_buckets lists of limits::expert_pairs_max pairs are kept.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "common/expert_pairs.hpp"
#include "common/ids.hpp"

namespace troupe::coordinator {

struct companion {
  std::uint32_t expert{};
  double share{};  // of the rows that chose the expert asked about, those that chose this one too; at least
};
struct companions {
  std::uint64_t rows{};         // that chose the expert
  std::vector<companion> most;  // the largest share first, at most limits::companions_max
  double missed_share{};        // what any share may be larger by, and the most that an expert not named has
};

class pair_window {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  // `number` tells a router's counts of a layer apart; it grows: what is repeated or late counts once.
  void report(const node_id& router, incarnation_number incarnation, layer_id layer, std::uint64_t number,
              const pair_counts& counts, time_point now);
  [[nodiscard]] companions of(const expert_id& expert, time_point now) const;
  void forget(const node_id& router) { sources_.erase(router); }

 private:
  struct bucket {
    std::int64_t number{};
    pair_counts counts;
  };
  struct source {
    incarnation_number incarnation;
    std::map<layer_id, std::uint64_t> newest;
  };
  std::map<layer_id, std::deque<bucket>> layers_;  // the newest bucket last
  std::map<node_id, source> sources_;
};

}  // namespace troupe::coordinator
