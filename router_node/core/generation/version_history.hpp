// Which layers went over to other versions of their experts, and by which maps. A *model* is what one such change left:
// it is named by the epoch of that map, {0} before the first change. Single-threaded.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "common/ids.hpp"

namespace troupe::router {

// A map with other expert masks or versions came into use.
struct model_change {
  epoch_number before;           // the map until then
  epoch_number after;            // the map since then
  std::vector<layer_id> layers;  // that are served in other versions; empty: only masks changed
};

class version_history {
 public:
  // @pre change.after > newest(); not for a change of masks alone
  void add(model_change change);
  [[nodiscard]] epoch_number newest() const { return newest_; }
  // No model but the newest is remembered.
  [[nodiscard]] bool is_empty() const { return changes_.empty(); }
  // How often the layer went over since that model: 0 when it is served as the model has it.
  [[nodiscard]] std::size_t changes_since(epoch_number model, layer_id layer) const;
  // The newest map that served all layers as the model has them; newest() for newest().
  [[nodiscard]] epoch_number last_map_of(epoch_number model) const;
  // Nobody will ask about older models than this any more.
  void forget_before(epoch_number model);

 private:
  std::deque<model_change> changes_;  // oldest first
  epoch_number newest_;
};

}  // namespace troupe::router
