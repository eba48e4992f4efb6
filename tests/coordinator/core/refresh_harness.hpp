// A model of two layers with three experts each, on two nodes, and folders with other weights for it.
#pragma once

#include <set>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {

inline constexpr std::uint32_t experts_per_layer = 3;

inline cluster_settings two_layers(std::uint32_t replication = 1) {
  auto settings = settings_of(0, replication, 2);
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    for (std::uint32_t e = 0; e < experts_per_layer; ++e) settings.experts.push_back({{layer_id::of(layer), e}, 100});
    settings.gates[layer_id::of(layer)].num_experts = experts_per_layer;
    settings.gates[layer_id::of(layer)].top_k = 1;
  }
  return settings;
}

inline core_harness two_nodes(std::uint32_t slots = 8, durable_state durable = {}) {
  core_harness h(two_layers(), std::move(durable));
  for (const char* name : {"a", "b"}) h.add_expert_node(name, slots);
  h.add_router("r");
  h.converge();
  return h;
}

// After a restart of the coordinator the nodes come back with what they hold.
inline core_harness restarted(const core_harness& before, cluster_settings settings = two_layers()) {
  core_harness h(std::move(settings), before.disk());
  h.pinned_to = before.pinned_to;
  for (const char* node : {"a", "b"}) {
    h.join(node, 1, before.state().nodes.at({node}).facts.slots_total);
    h.beating[node] = 1;
    h.report(node, before.held.at(node));
  }
  h.add_router("r");
  return h;
}

// A folder in which the experts with these indices have other weights, in every layer.
inline refresh_weights from_folder(std::set<std::uint32_t> others, std::uint8_t content = 7) {
  refresh_weights refresh{"/next", std::nullopt, false};
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    for (std::uint32_t e = 0; e < experts_per_layer; ++e) {
      auto digest = digest_of(e);
      if (others.contains(e)) digest[31] = std::byte{content};
      refresh.found->push_back({{layer_id::of(layer), e}, digest});
    }
  }
  return refresh;
}

// "1 2 1 | 1 1 1": the versions that the published map serves.
inline std::string served(const core_harness& h) {
  std::string text;
  for (const auto& expert : h.state().published->experts) {
    if (expert.id.index == 0 && !text.empty()) text += "| ";
    text += fmt::format("{} ", expert.version.value);
    for (const auto& replica : expert.replicas) EXPECT_EQ(replica.version, expert.version);
    EXPECT_FALSE(expert.replicas.empty()) << to_string(expert.id) << " is unroutable";
  }
  if (!text.empty()) text.pop_back();
  return text;
}

inline const operation_record& newest(const core_harness& h) { return h.state().operations.rbegin()->second; }
inline std::size_t slots_used(const core_harness& h) {
  return h.state().nodes.at({"a"}).slots.size() + h.state().nodes.at({"b"}).slots.size();
}
inline std::string why(const result<command_outcome>& answer) { return answer ? "" : answer.error().message; }

}  // namespace troupe::coordinator::testing
