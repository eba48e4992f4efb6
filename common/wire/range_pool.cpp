#include "common/wire/range_pool.hpp"

#include <cassert>
#include <iterator>

namespace troupe::wire {

range_pool::range_pool(std::uint64_t bytes, std::uint64_t alignment)
    : total_(bytes / alignment * alignment), alignment_(alignment) {
  assert(alignment > 0 && (alignment & (alignment - 1)) == 0);
  if (total_ > 0) free_.emplace(0, total_);
}

std::optional<memory_range> range_pool::take(std::uint64_t bytes) {
  if (bytes == 0 || bytes > total_) return std::nullopt;
  const auto wanted = (bytes + alignment_ - 1) / alignment_ * alignment_;
  for (auto gap = free_.begin(); gap != free_.end(); ++gap) {
    const auto [offset, size] = *gap;
    if (size < wanted) continue;
    free_.erase(gap);
    if (size > wanted) free_.emplace(offset + wanted, size - wanted);
    taken_.emplace(offset, taken_range{wanted, false});
    taken_bytes_ += wanted;
    return memory_range{offset, wanted};
  }
  return std::nullopt;
}

range_pool::taken_map::iterator range_pool::find(const memory_range& range) {
  const auto found = taken_.find(range.offset);
  return found != taken_.end() && found->second.bytes == range.bytes ? found : taken_.end();
}

bool range_pool::give_back(const memory_range& range) {
  const auto found = find(range);
  if (found == taken_.end() || found->second.quarantined) return false;
  free_range(found);
  return true;
}

bool range_pool::quarantine(const memory_range& range) {
  const auto found = find(range);
  if (found == taken_.end()) return false;
  if (!found->second.quarantined) quarantined_bytes_ += range.bytes;
  found->second.quarantined = true;
  return true;
}

bool range_pool::release(const memory_range& range) {
  const auto found = find(range);
  if (found == taken_.end() || !found->second.quarantined) return false;
  quarantined_bytes_ -= range.bytes;
  free_range(found);
  return true;
}

void range_pool::free_range(taken_map::iterator range) {
  auto offset = range->first;
  auto bytes = range->second.bytes;
  taken_bytes_ -= bytes;
  taken_.erase(range);
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  free_.emplace(offset, bytes);
}

}  // namespace troupe::wire
