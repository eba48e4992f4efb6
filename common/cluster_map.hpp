// The cluster map as plain values: what the coordinator publishes and routers and expert nodes work by.
// Immutable once built; share it as std::shared_ptr<const cluster_map>. No thread rule.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"

namespace troupe::proto {
class ClusterMap;
}

namespace troupe {

using sha256_digest = std::array<std::byte, 32>;

enum class node_role : std::uint8_t { coordinator = 1, expert = 2, router = 3 };
enum class node_state : std::uint8_t { joining = 1, serving = 2, draining = 3, quarantined = 4, lost = 5 };
enum class expert_state : std::uint8_t { dormant = 1, warming = 2, active = 3, draining = 4, pruned = 5 };

[[nodiscard]] std::string_view to_string(node_role role);
[[nodiscard]] std::string_view to_string(node_state state);
[[nodiscard]] std::string_view to_string(expert_state state);

struct map_node {
  node_id name;
  node_role role{node_role::expert};
  node_state state{node_state::joining};
  incarnation_number incarnation;
  std::string data_address;
  std::string public_key;  // CURVE, Z85; empty on ipc
  std::string machine_id;
  friend bool operator==(const map_node&, const map_node&) = default;
};

struct map_replica {
  std::uint32_t node{};  // index into cluster_map::nodes
  slot_index slot;
  weights_version version;
  friend bool operator==(const map_replica&, const map_replica&) = default;
};

struct map_expert {
  expert_id id;
  expert_state state{expert_state::dormant};
  weights_version version;
  std::optional<sha256_digest> digest;  // none until a replica was verified for the first time
  std::vector<map_replica> replicas;    // only replicas that may be used
  bool masked{};  // gates choose as if the model never had it: not added yet, pruned, or restored and not back yet
  friend bool operator==(const map_expert&, const map_expert&) = default;
};

struct cluster_map {
  term_number term;
  epoch_number epoch;
  std::string cluster_id;
  std::string model_fingerprint;
  std::vector<map_node> nodes;
  std::vector<map_expert> experts;  // ordered by id, unique

  // nullptr when the map does not know it.
  [[nodiscard]] const map_expert* find(const expert_id& id) const;
  [[nodiscard]] const map_node* find(const node_id& name) const;
  // All experts of one layer, in order.
  [[nodiscard]] std::span<const map_expert> layer(layer_id layer) const;
  // Of the layer's experts in order: 1 where the gate may choose it, 0 where it is masked. Empty when none is masked.
  [[nodiscard]] std::vector<std::uint8_t> gate_mask(layer_id layer) const;
  // Experts that are wanted and have no replica: rows that choose one of them have to wait.
  [[nodiscard]] std::size_t unroutable_experts() const;
  // Is `other` to be preferred? Larger term first, then larger epoch.
  [[nodiscard]] bool is_older_than(const cluster_map& other) const;

  friend bool operator==(const cluster_map&, const cluster_map&) = default;
};

// Do rows get the same from both: the same experts in the gates, of the same versions?
[[nodiscard]] bool is_same_model(const cluster_map& a, const cluster_map& b);
// The layers in which both know an expert and serve it in different versions; ascending.
[[nodiscard]] std::vector<layer_id> layers_of_other_versions(const cluster_map& a, const cluster_map& b);

void to_proto(const cluster_map& map, proto::ClusterMap& message);
// invalid_request with the field's path when order, indices or enum values are off.
[[nodiscard]] result<cluster_map> from_proto(const proto::ClusterMap& message);

}  // namespace troupe
