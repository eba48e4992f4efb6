#include "cli/placement_advice.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace troupe::cli {
namespace {

json expert(int layer, int index, double share, const std::vector<std::string>& on,
            const std::string& state = "active") {
  json replicas = json::array();
  for (const auto& node : on) replicas.push_back({{"node", node}, {"slot", 0}, {"version", 1}});
  return {{"layer", layer}, {"expert", index}, {"state", state},
          {"share", share}, {"bytes", 100},    {"replicas", replicas}};
}

json node(const std::string& name, int total, int used, const std::string& state = "serving") {
  return {{"name", name}, {"role", "expert"}, {"state", state}, {"slots_total", total}, {"slots_used", used}};
}

json list(const std::vector<json>& items) { return {{"items", items}}; }

// The two busy experts are on one node.
json uneven() {
  return list({expert(0, 0, 0.4, {"a"}), expert(0, 1, 0.4, {"a"}), expert(0, 2, 0.1, {"b"}), expert(0, 3, 0.1, {"b"})});
}

const json two_full_nodes = list({node("a", 2, 2), node("b", 2, 2)});

TEST(placement_advice, busy_experts_are_parted) {
  const auto plan = plan_document(uneven(), two_full_nodes, window_loads(uneven()), {});
  ASSERT_TRUE(plan);
  EXPECT_NEAR(plan->at("imbalance_before").get<double>(), 1.6, 1e-9);
  EXPECT_NEAR(plan->at("imbalance_after").get<double>(), 1.0, 1e-9);
  ASSERT_EQ(plan->at("moves"), 2);
  EXPECT_EQ(plan->at("bytes"), 200);
  for (const auto& move : plan->at("items")) {
    EXPECT_NE(move.at("to"), move.at("from"));
    EXPECT_EQ(move.at("reason"), "from a fuller node to an emptier one");
    EXPECT_FALSE(move.at("instead_of").is_null());
  }
}

TEST(placement_advice, the_limit_of_moves_and_the_target_hold) {
  const auto none = plan_document(uneven(), two_full_nodes, window_loads(uneven()), {.moves_max = 0});
  ASSERT_TRUE(none);
  EXPECT_EQ(none->at("moves"), 0);
  EXPECT_EQ(none->at("imbalance_before"), none->at("imbalance_after"));
  const auto good_enough =
      plan_document(uneven(), two_full_nodes, window_loads(uneven()), {.moves_max = 9, .imbalance_target = 0.7});
  ASSERT_TRUE(good_enough);
  EXPECT_EQ(good_enough->at("moves"), 0);
}

TEST(placement_advice, a_free_slot_takes_a_replica_of_the_busiest) {
  const auto plan =
      plan_document(uneven(), list({node("a", 2, 2), node("b", 3, 2)}), window_loads(uneven()), {.moves_max = 1});
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->at("moves"), 1);
  const auto& move = plan->at("items")[0];
  EXPECT_EQ(move.at("to"), "b");
  EXPECT_LT(move.at("expert").get<int>(), 2);
  EXPECT_TRUE(move.at("instead_of").is_null());
}

TEST(placement_advice, without_loads_nothing_moves) {
  const auto plan = plan_document(uneven(), two_full_nodes, {}, {});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->at("moves"), 0);
  EXPECT_TRUE(plan->at("imbalance_before").is_null());
  EXPECT_TRUE(plan->at("layers")[0].at("imbalance_after").is_null());
}

TEST(placement_advice, what_a_lost_node_had_is_covered) {
  const auto plan =
      plan_document(uneven(), list({node("a", 4, 2), node("b", 2, 2, "lost")}), window_loads(uneven()), {});
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->at("moves"), 2);
  for (const auto& move : plan->at("items")) EXPECT_EQ(move.at("reason"), "the expert is served nowhere");
}

TEST(placement_advice, experts_that_take_no_part_are_left_out) {
  auto experts = list({expert(0, 0, 0.5, {"a"}), expert(0, 1, 0, {}, "pruned"), expert(0, 2, 0.5, {"b"})});
  const auto plan = plan_document(experts, list({node("a", 1, 1), node("b", 1, 1)}), window_loads(experts), {});
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->at("moves"), 0);
  EXPECT_NEAR(plan->at("imbalance_before").get<double>(), 1.0, 1e-9);
}

TEST(placement_advice, refusals_say_what_does_not_fit) {
  const auto few = plan_document(uneven(), list({node("a", 2, 2)}), window_loads(uneven()), {});
  ASSERT_FALSE(few);
  EXPECT_EQ(few.error().code, errc::conflict);
  EXPECT_NE(few.error().message.find("4 experts and 2 slots"), std::string::npos) << few.error().message;
  const auto many = plan_document(uneven(), two_full_nodes, {{"0", {1, 1, 1, 1, 1}}}, {});
  ASSERT_FALSE(many);
  EXPECT_EQ(many.error().code, errc::invalid_request);
  EXPECT_NE(many.error().message.find("0/4"), std::string::npos) << many.error().message;
}

}  // namespace
}  // namespace troupe::cli
