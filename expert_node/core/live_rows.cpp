#include "expert_node/core/live_rows.hpp"

#include <algorithm>

#include "common/limits.hpp"

namespace troupe::expert {

bool live_rows::wants(const expert_id& expert, time_point now) const {
  const auto known = kept_.find(expert);
  return known == kept_.end() || now - known->second.last >= limits::live_row_interval;
}

void live_rows::keep(const expert_id& expert, std::span<const std::byte> row, time_point now) {
  auto& kept = kept_[expert];
  kept.last = now;
  if (kept.rows.size() == limits::live_rows_max * row.size()) {
    std::ranges::copy(row, kept.rows.begin() + static_cast<std::ptrdiff_t>(kept.oldest));
    kept.oldest = (kept.oldest + row.size()) % kept.rows.size();
  } else if (bytes_ + row.size() <= limits::live_rows_bytes_max) {
    kept.rows.insert(kept.rows.end(), row.begin(), row.end());
    bytes_ += row.size();
  }
}

std::span<const std::byte> live_rows::of(const expert_id& expert) const {
  const auto known = kept_.find(expert);
  return known == kept_.end() ? std::span<const std::byte>{} : known->second.rows;
}

void live_rows::forget(const expert_id& expert) {
  const auto known = kept_.find(expert);
  if (known == kept_.end()) return;
  bytes_ -= known->second.rows.size();
  kept_.erase(known);
}

}  // namespace troupe::expert
