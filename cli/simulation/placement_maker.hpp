// Whoever decides where the replicas of all layers are, step by step: a planner or the coordinator's policies.
#pragma once

#include <cstdint>
#include <vector>

#include "cli/simulation/load_source.hpp"
#include "cli/simulation/present_nodes.hpp"

namespace troupe::cli {

class placement_maker {
 public:
  explicit placement_maker(std::size_t layers) : held_(layers), masks_(layers) {}
  virtual ~placement_maker() = default;
  placement_maker(const placement_maker&) = delete;
  placement_maker& operator=(const placement_maker&) = delete;

  // `loads`: what is known of them. `index`: of the step, from 0.
  // @pre the nodes that are there have as many slots as a layer has experts, or more
  virtual void plan(std::uint32_t index, const step_loads& loads, const present_nodes& nodes) = 0;

  [[nodiscard]] const std::vector<placement>& held() const { return held_; }  // per layer
  // Per expert of the layer: may rows choose it? Empty: all of them.
  [[nodiscard]] const std::vector<bool>& mask(std::size_t layer) const { return masks_[layer]; }

 protected:
  std::vector<placement> held_;
  std::vector<std::vector<bool>> masks_;
};

// What experts get of `loads` when rows choose among those of the mask: the load of the others goes to them, in
// proportion. Returns the share of the load that the others would have had: the masked mass.
double apply_mask(std::vector<double>& loads, const std::vector<bool>& mask);

}  // namespace troupe::cli
