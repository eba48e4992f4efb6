#include "coordinator/core/placement_history.hpp"

#include <utility>

namespace troupe::coordinator {

std::string_view to_string(node_change::kind what) {
  constexpr std::string_view names[] = {"came", "left", "draining", "undrained"};
  return names[static_cast<std::size_t>(what)];
}

std::string_view to_string(expert_changes::kind what) {
  constexpr std::string_view names[] = {"added", "removed", "masked", "unmasked"};
  return names[static_cast<std::size_t>(what)];
}

void placement_history::add(placement_epoch epoch) {
  if (epochs_.size() == epochs_max) epochs_.pop_front();
  epochs_.push_back(std::move(epoch));
}

}  // namespace troupe::coordinator
