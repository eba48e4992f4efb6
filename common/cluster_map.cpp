#include "common/cluster_map.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include <fmt/core.h>

#include "common/limits.hpp"
#include "proto/common.pb.h"

namespace troupe {

std::string_view to_string(node_role role) {
  switch (role) {
    case node_role::coordinator:
      return "coordinator";
    case node_role::expert:
      return "expert";
    case node_role::router:
      return "router";
  }
  return "unknown";
}

std::string_view to_string(node_state state) {
  switch (state) {
    case node_state::joining:
      return "joining";
    case node_state::serving:
      return "serving";
    case node_state::draining:
      return "draining";
    case node_state::quarantined:
      return "quarantined";
    case node_state::lost:
      return "lost";
  }
  return "unknown";
}

std::string_view to_string(expert_state state) {
  switch (state) {
    case expert_state::dormant:
      return "dormant";
    case expert_state::warming:
      return "warming";
    case expert_state::active:
      return "active";
    case expert_state::draining:
      return "draining";
    case expert_state::pruned:
      return "pruned";
  }
  return "unknown";
}

const map_expert* cluster_map::find(const expert_id& id) const {
  auto at = std::ranges::lower_bound(experts, id, {}, &map_expert::id);
  return at != experts.end() && at->id == id ? &*at : nullptr;
}

const map_node* cluster_map::find(const node_id& name) const {
  auto at = std::ranges::find(nodes, name, &map_node::name);
  return at != nodes.end() ? &*at : nullptr;
}

std::span<const map_expert> cluster_map::layer(layer_id layer) const {
  auto in_layer = [](const map_expert& e) { return e.id.layer; };
  auto begin = std::ranges::lower_bound(experts, layer, {}, in_layer);
  auto end = std::ranges::upper_bound(begin, experts.end(), layer, {}, in_layer);
  return {begin, end};
}

std::vector<std::uint8_t> cluster_map::gate_mask(layer_id id) const {
  const auto of_layer = layer(id);
  if (std::ranges::none_of(of_layer, &map_expert::masked)) return {};
  std::vector<std::uint8_t> mask;
  for (const auto& expert : of_layer) mask.push_back(expert.masked ? 0 : 1);
  return mask;
}

std::size_t cluster_map::unroutable_experts() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(experts, [](const map_expert& e) { return !e.masked && e.replicas.empty(); }));
}

bool cluster_map::is_older_than(const cluster_map& other) const {
  return term != other.term ? term < other.term : epoch < other.epoch;
}

bool is_same_model(const cluster_map& a, const cluster_map& b) {
  return std::ranges::equal(a.experts, b.experts, [](const map_expert& x, const map_expert& y) {
    return x.id == y.id && x.masked == y.masked && x.version == y.version;
  });
}

std::vector<layer_id> layers_of_other_versions(const cluster_map& a, const cluster_map& b) {
  std::vector<layer_id> layers;
  for (const auto& expert : b.experts) {
    if (!layers.empty() && layers.back() == expert.id.layer) continue;
    const auto* other = a.find(expert.id);
    if (other != nullptr && other->version != expert.version) layers.push_back(expert.id.layer);
  }
  return layers;
}

void to_proto(const cluster_map& map, proto::ClusterMap& message) {
  message.Clear();
  message.set_term(map.term.value);
  message.set_epoch(map.epoch.value);
  message.set_cluster_id(map.cluster_id);
  message.set_model_fingerprint(map.model_fingerprint);
  for (const auto& node : map.nodes) {
    auto& m = *message.add_nodes();
    m.set_name(node.name.value);
    m.set_role(static_cast<proto::NodeRole>(node.role));
    m.set_state(static_cast<proto::NodeState>(node.state));
    m.set_incarnation(node.incarnation.value);
    m.set_data_address(node.data_address);
    m.set_public_key(node.public_key);
    m.set_machine_id(node.machine_id);
  }
  for (const auto& expert : map.experts) {
    auto& m = *message.add_experts();
    m.set_layer(expert.id.layer.value);
    m.set_expert(expert.id.index);
    m.set_state(static_cast<proto::ExpertState>(expert.state));
    m.set_version(expert.version.value);
    if (expert.digest) m.set_digest(expert.digest->data(), expert.digest->size());
    m.set_masked(expert.masked);
    for (const auto& replica : expert.replicas) {
      auto& r = *m.add_replicas();
      r.set_node(replica.node);
      r.set_slot(replica.slot.value);
      r.set_version(replica.version.value);
    }
  }
}

namespace {

result<map_node> node_from(const proto::MapNode& m, int index) {
  if (!is_valid_node_name(m.name()))
    return fail(errc::invalid_request, fmt::format("nodes[{}].name is no node name", index));
  if (m.role() < proto::COORDINATOR || m.role() > proto::ROUTER) {
    return fail(errc::invalid_request,
                fmt::format("nodes[{}].role = {} is unknown", index, static_cast<int>(m.role())));
  }
  if (m.state() < proto::JOINING || m.state() > proto::LOST) {
    return fail(errc::invalid_request,
                fmt::format("nodes[{}].state = {} is unknown", index, static_cast<int>(m.state())));
  }
  return map_node{{m.name()},
                  static_cast<node_role>(m.role()),
                  static_cast<node_state>(m.state()),
                  {m.incarnation()},
                  m.data_address(),
                  m.public_key(),
                  m.machine_id()};
}

result<map_expert> expert_from(const proto::MapExpert& m, int index, std::size_t num_nodes) {
  if (m.state() < proto::DORMANT || m.state() > proto::PRUNED) {
    return fail(errc::invalid_request,
                fmt::format("experts[{}].state = {} is unknown", index, static_cast<int>(m.state())));
  }
  map_expert expert{{{m.layer()}, m.expert()}, static_cast<expert_state>(m.state()), {m.version()}, std::nullopt, {}};
  if (!m.digest().empty()) {
    sha256_digest digest{};
    if (m.digest().size() != digest.size()) {
      return fail(errc::invalid_request,
                  fmt::format("experts[{}].digest has {} bytes, not 32", index, m.digest().size()));
    }
    std::memcpy(digest.data(), m.digest().data(), digest.size());
    expert.digest = digest;
  }
  expert.masked = m.masked();
  for (const auto& r : m.replicas()) {
    if (r.node() >= num_nodes) {
      return fail(errc::invalid_request,
                  fmt::format("experts[{}].replicas name node {} of {}", index, r.node(), num_nodes));
    }
    expert.replicas.push_back({r.node(), {r.slot()}, {r.version()}});
  }
  return expert;
}

}  // namespace

result<cluster_map> from_proto(const proto::ClusterMap& message) {
  if (static_cast<std::size_t>(message.nodes_size()) > limits::nodes_max) {
    return fail(errc::too_large, fmt::format("map of {} nodes; at most {}", message.nodes_size(), limits::nodes_max));
  }
  cluster_map map{{message.term()}, {message.epoch()}, message.cluster_id(), message.model_fingerprint(), {}, {}};
  for (int i = 0; i < message.nodes_size(); ++i) {
    auto node = node_from(message.nodes(i), i);
    if (!node) return fail(node.error());
    map.nodes.push_back(*std::move(node));
  }
  for (int i = 0; i < message.experts_size(); ++i) {
    auto expert = expert_from(message.experts(i), i, map.nodes.size());
    if (!expert) return fail(expert.error());
    if (!map.experts.empty() && !(map.experts.back().id < expert->id)) {
      return fail(errc::invalid_request, fmt::format("experts[{}] = {} is out of order", i, to_string(expert->id)));
    }
    map.experts.push_back(*std::move(expert));
  }
  return map;
}

}  // namespace troupe
