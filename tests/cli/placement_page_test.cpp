#include "cli/placement_page.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace troupe::cli {
namespace {

json expert(json layer, int index, double share, const std::vector<std::string>& on,
            const std::vector<std::string>& wanted) {
  json replicas = json::array();
  for (const auto& node : on) replicas.push_back({{"node", node}, {"slot", 0}, {"version", 1}});
  return {{"layer", layer},  {"expert", index},  {"state", "active"},   {"share", share},
          {"pinned", false}, {"wanted", wanted}, {"replicas", replicas}};
}

json node(const std::string& name, const std::string& state = "serving") {
  return {{"name", name},     {"role", "expert"}, {"state", state},
          {"slots_total", 8}, {"slots_used", 2},  {"rows_per_second", 12.4}};
}

json nodes_of(const std::vector<json>& expert_nodes) {
  json items = json::array({{{"name", "coordinator"}, {"role", "coordinator"}, {"state", "serving"}}});
  for (const auto& item : expert_nodes) items.push_back(item);
  return {{"items", items}};
}

json experts_of(const std::vector<json>& items) { return {{"term", 2}, {"epoch", 7}, {"items", items}}; }

TEST(placement_page, shares_are_split_over_replicas_and_summed_over_layers) {
  const auto placement =
      placement_document(experts_of({expert(0, 0, 0.6, {"a", "b"}, {"a", "b"}), expert(0, 1, 0.4, {"b"}, {"b"}),
                                     expert(1, 0, 1.0, {"a"}, {"a"}), expert(1, 1, 0.0, {"b"}, {"b"})}),
                         nodes_of({node("a"), node("b")}));
  EXPECT_EQ(placement.at("term"), 2);
  EXPECT_EQ(placement.at("epoch"), 7);
  EXPECT_EQ(placement.at("moving"), 0);
  EXPECT_NEAR(placement.at("layers")[0].at("imbalance").get<double>(), 1.4, 1e-9);
  EXPECT_NEAR(placement.at("layers")[1].at("imbalance").get<double>(), 2.0, 1e-9);
  EXPECT_NEAR(placement.at("imbalance").get<double>(), 1.3, 1e-9);
  EXPECT_NEAR(placement.at("nodes")[0].at("load").get<double>(), 1.3, 1e-9);
  EXPECT_EQ(placement.at("nodes")[1].at("replicas"), 3);
}

TEST(placement_page, an_idle_node_counts_and_one_that_is_lost_does_not) {
  const auto experts = experts_of({expert(0, 0, 1.0, {"a"}, {"a"})});
  const auto idle = placement_document(experts, nodes_of({node("a"), node("b")}));
  EXPECT_NEAR(idle.at("imbalance").get<double>(), 2.0, 1e-9);
  const auto lost = placement_document(experts, nodes_of({node("a"), node("b", "lost")}));
  EXPECT_NEAR(lost.at("imbalance").get<double>(), 1.0, 1e-9);
}

TEST(placement_page, without_traffic_there_is_no_imbalance) {
  const auto placement = placement_document(experts_of({expert(0, 0, 0, {"a"}, {"a"})}), nodes_of({node("a")}));
  EXPECT_TRUE(placement.at("imbalance").is_null());
  EXPECT_TRUE(placement.at("layers")[0].at("imbalance").is_null());
}

TEST(placement_page, what_comes_and_goes_shows) {
  const auto placement = placement_document(
      experts_of({expert(0, 0, 0.5, {"a"}, {"b"}), expert(0, 1, 0.3, {"a"}, {"a"}), expert(0, 2, 0.2, {"a"}, {"a"})}),
      nodes_of({node("a"), node("b")}));
  EXPECT_EQ(placement.at("moving"), 2);
  EXPECT_EQ(placement.at("items")[0].at("coming"), json::array({"b"}));
  EXPECT_EQ(placement.at("items")[0].at("going"), json::array({"a"}));
  const auto page = placement_page(placement, false);
  EXPECT_NE(page.find("1-2 -0"), std::string::npos) << page;
  EXPECT_NE(page.find("+0"), std::string::npos) << page;
}

TEST(placement_page, a_router_does_not_know_what_is_wanted) {
  auto known = expert(0, 0, 0.5, {"a"}, {});
  known.erase("wanted");
  auto unplanned = expert(0, 1, 0.5, {"a"}, {});
  unplanned["wanted"] = nullptr;
  const auto placement = placement_document({{"items", {known, unplanned}}}, nodes_of({node("a")}));
  EXPECT_EQ(placement.at("moving"), 0);
  EXPECT_TRUE(placement.at("epoch").is_null());
}

TEST(placement_page, the_page_has_a_row_per_layer_and_wide_one_per_expert) {
  const auto placement =
      placement_document(experts_of({expert("encoder.1", 0, 0.5, {"a"}, {"a"}), expert("encoder.1", 1, 0.5, {}, {"a"}),
                                     expert("decoder.1", 0, 1.0, {"a"}, {"a"})}),
                         nodes_of({node("a")}));
  EXPECT_EQ(placement_page(placement, false),
            "TERM             2\n"
            "EPOCH            7\n"
            "IMBALANCE        1.00\n"
            "REPLICAS MOVING  1\n"
            "\n"
            "NODE  STATE    SLOTS  USED  REPLICAS     LOAD  ROWS/S\n"
            "a     serving      8     2         2  100.0 %      12\n"
            "\n"
            "LAYER      IMBALANCE  a     NOWHERE\n"
            "encoder.1       1.00  0 +1  1\n"
            "decoder.1       1.00  0     -\n");
  const auto wide = placement_page(placement, true);
  EXPECT_NE(wide.find("LAYER      EXPERT  STATE     SHARE  REPLICAS  WANTED"), std::string::npos) << wide;
}

TEST(placement_page, numbers_in_a_row_are_written_as_a_range) {
  EXPECT_EQ(as_ranges({}), "");
  EXPECT_EQ(as_ranges({4}), "4");
  EXPECT_EQ(as_ranges({0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
}

}  // namespace
}  // namespace troupe::cli
