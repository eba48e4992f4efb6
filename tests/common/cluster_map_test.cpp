#include "common/cluster_map.hpp"

#include <gtest/gtest.h>

#include "proto/common.pb.h"

namespace troupe {
namespace {

cluster_map small_map() {
  cluster_map map{{2}, {7}, "c", "f", {}, {}};
  map.nodes.push_back({{"expert-0"}, node_role::expert, node_state::serving, {11}, "ipc://x", "", "m"});
  map.experts.push_back({{layer_id::of(0), 0}, expert_state::active, {1}, sha256_digest{}, {{0, {4}, {1}}}});
  map.experts.push_back({{layer_id::of(0), 1}, expert_state::warming, {1}, std::nullopt, {}});
  map.experts.push_back({{layer_id::of(2), 0}, expert_state::active, {1}, std::nullopt, {{0, {5}, {1}}}});
  return map;
}

TEST(cluster_map, survives_the_wire) {
  proto::ClusterMap message;
  to_proto(small_map(), message);
  auto back = from_proto(message);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, small_map());
}

TEST(cluster_map, finds_experts_and_layers) {
  auto map = small_map();
  EXPECT_EQ(map.find(expert_id{layer_id::of(0), 1})->state, expert_state::warming);
  EXPECT_EQ(map.find(expert_id{layer_id::of(1), 1}), nullptr);
  EXPECT_EQ(map.layer(layer_id::of(0)).size(), 2U);
  EXPECT_TRUE(map.layer(layer_id::of(1)).empty());
}

TEST(cluster_map, refuses_what_does_not_fit_together) {
  proto::ClusterMap message;
  to_proto(small_map(), message);
  message.mutable_experts(2)->mutable_replicas(0)->set_node(1);
  EXPECT_NE(from_proto(message).error().message.find("experts[2]"), std::string::npos);
  to_proto(small_map(), message);
  message.mutable_experts()->SwapElements(0, 1);
  EXPECT_FALSE(from_proto(message));
  to_proto(small_map(), message);
  message.mutable_nodes(0)->set_state(static_cast<proto::NodeState>(99));
  EXPECT_NE(from_proto(message).error().message.find("nodes[0].state"), std::string::npos);
}

}  // namespace
}  // namespace troupe
