#include "coordinator/core/placement_history.hpp"

#include <algorithm>
#include <utility>

namespace troupe::coordinator {

std::string_view to_string(node_change::kind what) {
  constexpr std::string_view names[] = {"came", "left", "draining", "undrained"};
  return names[static_cast<std::size_t>(what)];
}

std::string_view to_string(expert_changes::kind what) {
  constexpr std::string_view names[] = {"added", "removed", "masked", "unmasked", "refreshed"};
  return names[static_cast<std::size_t>(what)];
}

void placement_history::add(placement_epoch epoch, std::shared_ptr<const cluster_map> map) {
  if (epochs_.size() == epochs_max) epochs_.pop_front();
  epochs_.push_back(std::move(epoch));
  if (map == nullptr) return;
  if (maps_.size() == maps_max) maps_.pop_front();
  maps_.push_back(std::move(map));
}

std::shared_ptr<const cluster_map> placement_history::map_of(epoch_number epoch) const {
  auto at = std::ranges::find_if(maps_, [&](const auto& map) { return map->epoch == epoch; });
  return at == maps_.end() ? nullptr : *at;
}

std::pair<epoch_number, epoch_number> placement_history::maps_kept() const {
  if (maps_.empty()) return {};
  return {maps_.front()->epoch, maps_.back()->epoch};
}

}  // namespace troupe::coordinator
