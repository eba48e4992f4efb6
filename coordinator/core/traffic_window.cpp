#include "coordinator/core/traffic_window.hpp"

#include <algorithm>

namespace troupe::coordinator {
namespace {

constexpr auto num_buckets = static_cast<std::int64_t>(limits::traffic_window_buckets);
constexpr std::int64_t num_recent = 2;
// Times before that of the machine's start have numbers, too: those of a restored window.
constexpr std::int64_t first_number = 1'000'000 * num_buckets;

}  // namespace

std::int64_t traffic_window::bucket_number(time_point now) const {
  return first_number + now.time_since_epoch() / (length_ / num_buckets);
}

std::uint64_t traffic_window::report(const node_id& node, incarnation_number incarnation, const expert_id& expert,
                                     std::uint64_t rows_total, time_point now) {
  auto& from = sources_[node];
  if (from.incarnation != incarnation) from = {incarnation, {}, false};
  auto [at, is_first] = from.rows.try_emplace(expert, 0);
  auto& seen = at->second;
  if (rows_total <= seen) return 0;
  auto added = rows_total - seen;
  seen = rows_total;
  if (is_first && from.was_there) return 0;

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

traffic_window::parts traffic_window::parts_of(const expert_id& expert, time_point now) const {
  parts rows{};
  auto found = series_.find(expert);
  if (found == series_.end()) return rows;
  const auto& from = found->second;
  auto oldest = bucket_number(now) - num_buckets + 1;
  for (auto b = std::max(oldest, from.newest - num_buckets + 1); b <= from.newest; ++b) {
    if (b >= 0) rows[static_cast<std::size_t>(b - oldest)] = from.buckets[static_cast<std::size_t>(b % num_buckets)];
  }
  return rows;
}

void traffic_window::restore(const expert_id& expert, const parts& rows, time_point as_of) {
  auto& target = series_[expert];
  target.newest = bucket_number(as_of);
  for (std::int64_t i = 0; i < num_buckets; ++i) {
    const auto part = rows[static_cast<std::size_t>(i)];
    target.buckets[static_cast<std::size_t>((target.newest - num_buckets + 1 + i) % num_buckets)] = part;
    target.rows_total += part;
  }
}

void traffic_window::begin_with_next_report(const node_id& node, incarnation_number incarnation) {
  sources_[node] = {incarnation, {}, true};
}

void traffic_window::forget(const node_id& node) { sources_.erase(node); }

}  // namespace troupe::coordinator
