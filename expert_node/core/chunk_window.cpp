#include "expert_node/core/chunk_window.hpp"

#include <algorithm>

namespace troupe::expert {

chunk_window::chunk_window(std::uint64_t total_bytes, chunk_options options)
    : total_bytes_{total_bytes},
      options_{options},
      missing_{static_cast<std::size_t>((total_bytes + options.chunk_bytes - 1) / options.chunk_bytes)},
      chunks_(missing_) {}

std::optional<chunk_range> chunk_window::next(time_point now) {
  if (outstanding_ >= options_.outstanding_max) return std::nullopt;
  auto found = std::find_if(chunks_.begin(), chunks_.end(),
                            [](const chunk& candidate) { return candidate.state == chunk_state::missing; });
  if (found == chunks_.end()) return std::nullopt;
  *found = {chunk_state::asked, now + options_.timeout};
  ++outstanding_;
  return range_of(static_cast<std::size_t>(found - chunks_.begin()));
}

bool chunk_window::received(const chunk_range& arrived) {
  auto index = static_cast<std::size_t>(arrived.offset / options_.chunk_bytes);
  if (index >= chunks_.size() || range_of(index) != arrived) return false;
  if (chunks_[index].state != chunk_state::asked) return false;
  chunks_[index].state = chunk_state::here;
  --outstanding_;
  --missing_;
  return true;
}

std::size_t chunk_window::expire(time_point now) {
  std::size_t expired = 0;
  for (auto& candidate : chunks_) {
    if (candidate.state != chunk_state::asked || candidate.deadline > now) continue;
    candidate.state = chunk_state::missing;
    --outstanding_;
    ++expired;
  }
  return expired;
}

void chunk_window::restart() {
  for (auto& candidate : chunks_) {
    if (candidate.state == chunk_state::asked) candidate.state = chunk_state::missing;
  }
  outstanding_ = 0;
}

void chunk_window::discard() {
  std::fill(chunks_.begin(), chunks_.end(), chunk{});
  outstanding_ = 0;
  missing_ = chunks_.size();
}

std::optional<time_point> chunk_window::deadline() const {
  std::optional<time_point> earliest;
  for (const auto& candidate : chunks_) {
    if (candidate.state != chunk_state::asked) continue;
    if (!earliest || candidate.deadline < *earliest) earliest = candidate.deadline;
  }
  return earliest;
}

chunk_range chunk_window::range_of(std::size_t index) const {
  auto offset = index * options_.chunk_bytes;
  return {offset, std::min(options_.chunk_bytes, total_bytes_ - offset)};
}

}  // namespace troupe::expert
