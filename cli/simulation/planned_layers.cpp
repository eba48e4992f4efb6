#include "cli/simulation/planned_layers.hpp"

#include <numeric>

namespace troupe::cli {

const char* to_string(planner_kind kind) {
  switch (kind) {
    case planner_kind::troupe:
      return "troupe";
    case planner_kind::eplb:
      return "eplb";
    case planner_kind::eplb_hierarchical:
      return "eplb-hierarchical";
    case planner_kind::keep:
      return "static";
  }
  return "unknown";
}

bench::eplb_shape eplb_shape_of(const planner_settings& settings, std::uint32_t experts,
                                const std::vector<std::uint32_t>& node_slots) {
  const bool grouped = settings.kind == planner_kind::eplb_hierarchical;
  return {experts, std::accumulate(node_slots.begin(), node_slots.end(), 0U),
          static_cast<std::uint32_t>(node_slots.size()), grouped ? settings.machines : 1,
          grouped ? settings.groups : 1};
}

void planned_layers::plan(std::uint32_t index, const step_loads& loads, const present_nodes& nodes) {
  const bool has_changed = !planner_ || changes_ != nodes.changes();
  if (has_changed) {
    planner_.emplace(nodes.load_nodes(),
                     coordinator::load_planner_settings{.moves_max = settings_.moves_max,
                                                        .imbalance_target = settings_.imbalance_target});
    changes_ = nodes.changes();
  }
  is_due_ = has_changed || index % settings_.eplb_every == 0;
  for (std::size_t l = 0; l < held_.size(); ++l) held_[l] = plan_layer(l, loads[l], nodes);
  if (first_.empty()) first_ = held_;
}

placement planned_layers::plan_layer(std::size_t layer, const std::vector<double>& loads, const present_nodes& nodes) {
  const auto& present = held_[layer];
  switch (settings_.kind) {
    case planner_kind::keep:
      if (first_.empty()) break;
      return nodes.without_absent(first_[layer]);
    case planner_kind::eplb:
    case planner_kind::eplb_hierarchical:
      if (!is_due_) return nodes.without_absent(present);
      return nodes.scatter(plan_eplb(loads, nodes.slots()));
    case planner_kind::troupe:
      break;
  }
  return nodes.scatter(planner_->plan(loads, nodes.gather(present)).expert_of_slot);
}

// Its hierarchical policy needs machines of equally many nodes; without them the published balancer plans globally.
placement planned_layers::plan_eplb(const std::vector<double>& loads,
                                    const std::vector<std::uint32_t>& node_slots) const {
  auto shape = eplb_shape_of(settings_, static_cast<std::uint32_t>(loads.size()), node_slots);
  if (!bench::check_eplb_shape(shape)) shape.machines = shape.groups = 1;
  return bench::eplb(loads, shape);
}

}  // namespace troupe::cli
