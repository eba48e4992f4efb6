#include "router_node/core/generation/version_history.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace troupe::router {

void version_history::add(model_change change) {
  assert(change.after > newest_ && !change.layers.empty());
  newest_ = change.after;
  changes_.push_back(std::move(change));
}

std::size_t version_history::changes_since(epoch_number model, layer_id layer) const {
  return static_cast<std::size_t>(std::ranges::count_if(changes_, [&](const model_change& change) {
    return change.after > model && std::ranges::find(change.layers, layer) != change.layers.end();
  }));
}

epoch_number version_history::last_map_of(epoch_number model) const {
  const auto next = std::ranges::find_if(changes_, [&](const model_change& change) { return change.after > model; });
  return next == changes_.end() ? newest_ : next->before;
}

void version_history::forget_before(epoch_number model) {
  while (!changes_.empty() && changes_.front().after <= model) changes_.pop_front();
}

}  // namespace troupe::router
