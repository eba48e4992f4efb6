#include "coordinator/core/pair_window.hpp"

#include <algorithm>
#include <utility>

namespace troupe::coordinator {
namespace {

constexpr auto num_buckets = static_cast<std::int64_t>(limits::traffic_window_buckets);

std::int64_t bucket_number(pair_window::time_point now) {
  return now.time_since_epoch() / (limits::traffic_window / num_buckets);
}

}  // namespace

void pair_window::report(const node_id& router, incarnation_number incarnation, layer_id layer, std::uint64_t number,
                         const pair_counts& counts, time_point now) {
  auto& from = sources_[router];
  if (from.incarnation != incarnation) from = {incarnation, {}};
  auto& newest = from.newest[layer];
  if (number <= newest) return;
  newest = number;
  auto& buckets = layers_[layer];
  auto current = bucket_number(now);
  if (buckets.empty() || buckets.back().number < current) buckets.push_back({current, {}});
  while (buckets.front().number <= current - num_buckets) buckets.pop_front();
  merge(buckets.back().counts, counts);
}

companions pair_window::of(const expert_id& expert, time_point now) const {
  companions result;
  auto found = layers_.find(expert.layer);
  if (found == layers_.end()) return result;
  std::map<std::uint32_t, std::uint64_t> rows;
  std::uint64_t missed = 0;
  for (const auto& [number, counts] : found->second) {
    if (number <= bucket_number(now) - num_buckets || expert.index >= counts.expert_rows.size()) continue;
    result.rows += counts.expert_rows[expert.index];
    missed += counts.missed_max;
    for (const auto& pair : counts.pairs) {
      if (pair.first == expert.index) rows[pair.second] += pair.rows;
      if (pair.second == expert.index) rows[pair.first] += pair.rows;
    }
  }
  if (result.rows == 0) return result;
  auto share_of = [&](std::uint64_t part) {
    return std::min(1.0, static_cast<double>(part) / static_cast<double>(result.rows));
  };
  for (const auto& [other, together] : rows) result.most.push_back({other, share_of(together)});
  std::ranges::stable_sort(result.most, std::ranges::greater{}, &companion::share);
  if (result.most.size() > limits::companions_max) result.most.resize(limits::companions_max);
  result.missed_share = share_of(missed);
  return result;
}

}  // namespace troupe::coordinator
