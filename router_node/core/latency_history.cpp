#include "router_node/core/latency_history.hpp"

#include <algorithm>
#include <bit>

#include "common/limits.hpp"

namespace troupe::router {

std::size_t latency_history::class_of(std::uint32_t rows) {
  const auto log2 = static_cast<std::size_t>(std::bit_width(std::max(rows, 1U) - 1U));  // ceil
  return std::min(log2, size_classes - 1);
}

void latency_history::record(std::uint32_t rows, std::chrono::nanoseconds elapsed) {
  auto& kept = rings_[class_of(rows)];
  kept.elapsed[kept.count++ % remembered] = elapsed;
}

std::chrono::nanoseconds latency_history::slowest_of(std::size_t size_class) const {
  const auto& kept = rings_[size_class];
  const auto used = std::min<std::size_t>(kept.count, remembered);
  return used == 0 ? std::chrono::nanoseconds(0) : *std::max_element(kept.elapsed.begin(), kept.elapsed.begin() + used);
}

std::chrono::nanoseconds latency_history::slowest(std::uint32_t rows) const {
  const auto wanted = class_of(rows);
  if (rings_[wanted].count > 0) return slowest_of(wanted);
  // A larger size bounds a smaller one as it is; a smaller one is scaled up.
  for (std::size_t c = wanted + 1; c < size_classes; ++c) {
    if (rings_[c].count > 0) return slowest_of(c);
  }
  for (std::size_t c = wanted; c-- > 0;) {
    if (rings_[c].count > 0) return slowest_of(c) * (std::int64_t{1} << (wanted - c));
  }
  return std::chrono::nanoseconds(0);
}

std::chrono::nanoseconds latency_history::attempt_timeout(std::uint32_t rows) const {
  const auto known = slowest(rows);
  if (known.count() == 0) return limits::attempt_timeout_default;
  return std::max<std::chrono::nanoseconds>(limits::attempt_timeout_floor, 4 * known);
}

}  // namespace troupe::router
