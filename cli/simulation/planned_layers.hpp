// Placements of all layers, made anew in each step by one planner: Troupe's, the published one, or none. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "bench/planner/eplb.hpp"
#include "cli/simulation/placement_maker.hpp"
#include "coordinator/core/load_planner.hpp"

namespace troupe::cli {

// keep: placed for the first step and left alone; a node that returns loads what it held before
enum class planner_kind : std::uint8_t { troupe, eplb, eplb_hierarchical, keep };
[[nodiscard]] const char* to_string(planner_kind kind);

struct planner_settings {
  planner_kind kind{planner_kind::troupe};
  std::int64_t moves_max{-1};     // per layer and step; -1: as many as help
  double imbalance_target{0.05};  // with a limit of moves, none is made below it
  std::uint32_t machines{1};      // of neighbouring nodes, for hierarchical EPLB
  std::uint32_t groups{1};        // of experts, for hierarchical EPLB
  std::uint32_t eplb_every{1};    // steps; EPLB also plans when nodes have come or gone
};

[[nodiscard]] bench::eplb_shape eplb_shape_of(const planner_settings& settings, std::uint32_t experts,
                                              const std::vector<std::uint32_t>& node_slots);

class planned_layers : public placement_maker {
 public:
  planned_layers(std::size_t layers, const planner_settings& settings) : placement_maker{layers}, settings_{settings} {}

  void plan(std::uint32_t index, const step_loads& loads, const present_nodes& nodes) override;

 private:
  placement plan_layer(std::size_t layer, const std::vector<double>& loads, const present_nodes& nodes);
  placement plan_eplb(const std::vector<double>& loads, const std::vector<std::uint32_t>& node_slots) const;

  planner_settings settings_;
  std::optional<coordinator::load_planner> planner_;  // for the nodes of changes_
  std::uint32_t changes_{};
  bool is_due_{};                 // EPLB plans in this step
  std::vector<placement> first_;  // planner_kind::keep: what each node belongs to have
};

}  // namespace troupe::cli
