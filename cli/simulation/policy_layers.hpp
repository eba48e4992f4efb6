// Placements as the coordinator's policies (coordinator/core/policies) make them in virtual time: the same pure
// functions, looking at the same windows.
//
// The first step places all experts by the load planner, or the first few of each layer with one replica each. Then, in
// each step: experts that lost their last node get another one; and every limits::policy_interval of virtual time each
// layer may carry out one proposal, all layers together limits::policy_operations_max, until there is none. An
// operation is over before the next look. Where a proposal names no node, the one with least of the layer to do takes a
// replica, and the one with most gives one up. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "cli/simulation/placement_maker.hpp"
#include "common/ids.hpp"
#include "coordinator/core/policies/policy.hpp"
#include "coordinator/core/traffic_window.hpp"

namespace troupe::cli {

struct simulated_policies {
  coordinator::policy_settings policies{};
  std::uint32_t active_experts{};  // per layer, in the beginning; 0: all
  std::uint32_t top_k{1};          // pruning leaves as many per layer
  std::uint32_t step_minutes{5};
};

class policy_layers : public placement_maker {
 public:
  policy_layers(const std::vector<std::uint32_t>& experts, const simulated_policies& settings);
  // @pre loads in rows
  void plan(std::uint32_t index, const step_loads& loads, const present_nodes& nodes) override;

 private:
  using time_point = std::chrono::steady_clock::time_point;
  struct expert_past {
    std::uint64_t rows{};      // since the beginning
    time_point present_since;  // of one that takes part
    bool is_pruned{};
  };

  void place_first(const step_loads& loads, const present_nodes& nodes);
  void place_few(std::size_t layer, const present_nodes& nodes);
  void watch(std::size_t layer, const std::vector<double>& loads);
  void cover(std::size_t layer, const present_nodes& nodes);
  bool act(std::size_t layer, const std::vector<double>& loads, const present_nodes& nodes);
  [[nodiscard]] std::optional<coordinator::proposal> propose(const coordinator::policy_input& input) const;
  [[nodiscard]] coordinator::policy_input look(std::size_t layer, const std::vector<double>& loads,
                                               const present_nodes& nodes) const;

  // Whether it was possible.
  bool carry_out(std::size_t layer, const coordinator::change_presence& what, const present_nodes& nodes);
  bool carry_out(std::size_t layer, const coordinator::migrate_expert& what, const present_nodes& nodes);
  bool carry_out(std::size_t layer, const coordinator::apply_placement& what, const present_nodes& nodes);
  bool carry_out(std::size_t layer, const coordinator::replicate_expert& what, const present_nodes& nodes);

  // What each node has to do of the layer.
  [[nodiscard]] std::vector<double> node_loads(std::size_t layer, const present_nodes& nodes) const;
  bool add_replica(std::size_t layer, std::uint32_t expert, const present_nodes& nodes);
  bool add_replica_on(std::size_t layer, std::uint32_t expert, std::uint32_t node, const present_nodes& nodes);
  bool drop_replica(std::size_t layer, std::uint32_t expert, const present_nodes& nodes);
  bool drop_replica_on(std::size_t layer, std::uint32_t expert, std::uint32_t node, const present_nodes& nodes);

  simulated_policies settings_;
  time_point now_;
  std::vector<std::vector<expert_past>> past_;
  coordinator::traffic_window long_traffic_;
  step_loads shared_;  // loads after the mask
};

}  // namespace troupe::cli
