// What each expert of this node has done since the process began. Totals only grow. Belongs to the host.
#pragma once

#include <cstdint>
#include <set>
#include <unordered_map>
#include <vector>

#include "common/ids.hpp"

namespace troupe::expert {

struct expert_totals {
  std::uint64_t rows{};
  std::uint64_t calls{};  // calls of routers, not merged batches
  double seconds{};
  double weighted_norm{};  // sum over rows of |gate weight| x euclidean norm of the expert's output
};

struct expert_line {
  expert_id expert;
  expert_totals totals;
};

// Whole-node counters. All in units of calls of routers unless named otherwise.
struct host_totals {
  std::uint64_t calls_computed{};
  std::uint64_t calls_expired{};   // deadline passed before compute
  std::uint64_t calls_not_held{};  // asked for at least one expert that is not here
  std::uint64_t calls_failed{};    // the device failed
  std::uint64_t rows_computed{};
  std::uint64_t assignments_computed{};
  std::uint64_t batches{};
  double compute_seconds{};
};

class expert_statistics {
 public:
  void add(const expert_id& expert, const expert_totals& more);
  // Lines of experts that changed since the last call, ordered by expert.
  [[nodiscard]] std::vector<expert_line> take_changed();
  [[nodiscard]] std::vector<expert_line> all() const;

  host_totals host;

 private:
  std::unordered_map<expert_id, expert_totals> totals_;
  std::set<expert_id> changed_;
};

}  // namespace troupe::expert
