#include "expert_node/core/expert_statistics.hpp"

#include <algorithm>

namespace troupe::expert {

void expert_statistics::add(const expert_id& expert, const expert_totals& more) {
  auto& totals = totals_[expert];
  totals.rows += more.rows;
  totals.calls += more.calls;
  totals.seconds += more.seconds;
  totals.weighted_norm += more.weighted_norm;
  changed_.insert(expert);
}

std::vector<expert_line> expert_statistics::take_changed() {
  std::vector<expert_line> lines;
  lines.reserve(changed_.size());
  for (const auto& expert : changed_) lines.push_back({expert, totals_.at(expert)});
  changed_.clear();
  return lines;
}

std::vector<expert_line> expert_statistics::all() const {
  std::vector<expert_line> lines;
  lines.reserve(totals_.size());
  for (const auto& [expert, totals] : totals_) lines.push_back({expert, totals});
  std::sort(lines.begin(), lines.end(), [](const auto& left, const auto& right) { return left.expert < right.expert; });
  return lines;
}

}  // namespace troupe::expert
