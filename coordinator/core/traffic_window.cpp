#include "coordinator/core/traffic_window.hpp"

#include <algorithm>

namespace troupe::coordinator {
namespace {

constexpr auto num_buckets = static_cast<std::int64_t>(limits::traffic_window_buckets);
constexpr std::int64_t num_recent = 2;

}  // namespace

std::int64_t traffic_window::bucket_number(time_point now) const {
  return now.time_since_epoch() / (length_ / num_buckets);
}

std::uint64_t traffic_window::report(const node_id& node, incarnation_number incarnation, const expert_id& expert,
                                     std::uint64_t rows_total, time_point now) {
  auto& from = sources_[node];
  if (from.incarnation != incarnation) from = {incarnation, {}};
  auto [at, is_first] = from.rows.try_emplace(expert, 0);
  auto& seen = at->second;
  if (rows_total <= seen) return 0;
  auto added = rows_total - seen;
  seen = rows_total;

  auto& target = series_[expert];
  auto number = bucket_number(now);
  for (auto old = std::max(target.newest + 1, number - num_buckets + 1); old <= number; ++old) {
    target.buckets[static_cast<std::size_t>(old % num_buckets)] = 0;
  }
  target.newest = std::max(target.newest, number);
  target.buckets[static_cast<std::size_t>(number % num_buckets)] += added;
  target.rows_total += added;
  target.last_used = now;
  return is_first ? 0 : added;
}

traffic_window::usage traffic_window::of(const expert_id& expert, time_point now) const {
  auto found = series_.find(expert);
  if (found == series_.end()) return {};
  const auto& rows = found->second;
  usage result{rows.rows_total, 0, 0, rows.last_used};
  auto number = bucket_number(now);
  for (auto b = std::max(number - num_buckets + 1, rows.newest - num_buckets + 1); b <= rows.newest; ++b) {
    if (b < 0) continue;
    auto added = rows.buckets[static_cast<std::size_t>(b % num_buckets)];
    result.rows_in_window += added;
    if (b > number - num_recent) result.rows_recent += added;
  }
  return result;
}

void traffic_window::forget(const node_id& node) { sources_.erase(node); }

}  // namespace troupe::coordinator
