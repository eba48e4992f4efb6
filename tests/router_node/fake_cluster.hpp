// Maps, requests and an expert function whose sums are exact, for tests of the dispatcher.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/cluster_map.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router::testing {

inline constexpr layer_id layer = layer_id::of(3);
inline constexpr std::uint32_t hidden = 3;

// Small integers, so that f32 sums of a few hundred of them are exact in any order.
inline float expert_output(std::uint32_t expert, std::uint32_t row, std::uint32_t column, std::uint32_t version = 1) {
  return static_cast<float>((expert * 7 + row * 3 + column + (version - 1) * 11) % 64) - 20.0F;
}

// Of experts' weights, those that are not 1.
using versions = std::map<std::uint32_t, std::uint32_t>;
inline std::uint32_t version_of(const versions& changed, std::uint32_t expert) {
  const auto at = changed.find(expert);
  return at == changed.end() ? 1 : at->second;
}

// placement[e]: the hosts (by number) that hold expert e. `incarnations[h]` 0: the host is lost. `masked`: experts that
// gates must not choose.
inline std::shared_ptr<const cluster_map> make_map(std::uint64_t epoch,
                                                   const std::vector<std::vector<std::uint32_t>>& placement,
                                                   const std::vector<std::uint64_t>& incarnations,
                                                   const std::set<std::uint32_t>& masked = {},
                                                   const versions& changed = {}) {
  auto map = std::make_shared<cluster_map>();
  map->term = {1};
  map->epoch = {epoch};
  for (std::size_t h = 0; h < incarnations.size(); ++h) {
    map->nodes.push_back({.name = {"host-" + std::to_string(h)},
                          .role = node_role::expert,
                          .state = incarnations[h] == 0 ? node_state::lost : node_state::serving,
                          .incarnation = {incarnations[h]},
                          .data_address = "ipc://none",
                          .public_key = {},
                          .machine_id = {}});
  }
  for (std::uint32_t e = 0; e < placement.size(); ++e) {
    const weights_version version{version_of(changed, e)};
    map_expert expert{
        .id = {layer, e}, .state = expert_state::active, .version = version, .digest = {}, .replicas = {}};
    expert.masked = masked.contains(e);
    for (const auto h : placement[e]) expert.replicas.push_back({h, slot_index{e}, version});
    map->experts.push_back(std::move(expert));
  }
  return map;
}

inline node_id host_name(std::uint32_t h) { return {"host-" + std::to_string(h)}; }

// The honest answer to a call: sum over its assignments of weight x expert_output.
inline std::vector<std::byte> compute(const outgoing_call& call, const std::vector<std::uint32_t>& not_held = {}) {
  std::vector<float> sums(call.rows.size() * hidden);
  std::size_t a = 0;
  for (const auto& e : call.experts) {
    const bool is_held = std::find(not_held.begin(), not_held.end(), e.expert) == not_held.end();
    for (std::uint32_t i = 0; i < e.assignments; ++i, ++a) {
      if (!is_held) continue;
      const auto position = static_cast<std::size_t>(call.row_index[a]);
      for (std::uint32_t c = 0; c < hidden; ++c) {
        sums[position * hidden + c] +=
            call.gate_weight[a] * expert_output(e.expert, call.rows[position], c, e.version.value);
      }
    }
  }
  std::vector<std::byte> bytes(sums.size() * sizeof(float));
  std::memcpy(bytes.data(), sums.data(), bytes.size());
  return bytes;
}

inline partial_rows to_rows(std::vector<std::byte> bytes) {
  auto kept = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  return {*kept, kept};
}

inline call_answer answer_to(const outgoing_call& call, const std::vector<std::uint32_t>& not_held = {}) {
  return {.id = call.id,
          .host = call.host,
          .incarnation = call.incarnation,
          .outcome = to_rows(compute(call, not_held)),
          .not_held = not_held};
}

inline call_answer refusal_of(const outgoing_call& call, errc code, std::string message) {
  return {.id = call.id,
          .host = call.host,
          .incarnation = call.incarnation,
          .outcome = error{code, std::move(message)},
          .not_held = {}};
}

// What a request with this routing must give: computed in one place, without calls. `scale_to`: see renormalise.
inline std::vector<float> reference(const model::routing& routing, std::uint32_t rows, const versions& changed = {}) {
  std::vector<float> sums(std::size_t{rows} * hidden);
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t j = 0; j < routing.top_k; ++j) {
      const auto a = std::size_t{row} * routing.top_k + j;
      if (routing.expert_ids[a] < 0 || (!routing.dropped.empty() && routing.dropped[a] != 0)) continue;
      const auto expert = static_cast<std::uint32_t>(routing.expert_ids[a]);
      for (std::uint32_t c = 0; c < hidden; ++c) {
        sums[row * hidden + c] += routing.weights[a] * expert_output(expert, row, c, version_of(changed, expert));
      }
    }
  }
  return sums;
}

}  // namespace troupe::router::testing
