#include "cli/top_frame.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/placement_page.hpp"
#include "cli/screen.hpp"

namespace troupe::cli {
namespace {

json status() { return {{"state", "serving"}, {"term", 1}, {"epoch", 4}, {"model", {{"name", "tiny"}}}}; }

// `layers` layers whose experts have these shares, all on one node.
json placement(int layers, const std::vector<double>& shares, const std::string& last_state = "active") {
  json items = json::array();
  for (int layer = 0; layer < layers; ++layer) {
    for (std::size_t e = 0; e < shares.size(); ++e) {
      items.push_back({{"layer", layer},
                       {"expert", e},
                       {"state", e + 1 == shares.size() ? last_state : "active"},
                       {"share", shares[e]},
                       {"replicas", {{{"node", "a"}, {"slot", e}, {"version", 1}}}}});
    }
  }
  const json nodes{{"items",
                    {{{"name", "a"},
                      {"role", "expert"},
                      {"state", "serving"},
                      {"slots_total", 8},
                      {"slots_used", 4},
                      {"rows_per_second", 250.0}}}}};
  return placement_document({{"items", items}}, nodes);
}

const json no_operations{{"items", json::array()}};

bool shows(const std::string& frame, const std::string& text) { return frame.find(text) != std::string::npos; }

TEST(top_frame, shades_follow_the_fair_share) {
  EXPECT_EQ(shade(0, false), " ");
  EXPECT_EQ(shade(0.49, false), ".");
  EXPECT_EQ(shade(0.5, false), ":");
  EXPECT_EQ(shade(1, false), "+");
  EXPECT_EQ(shade(2, false), "#");
  EXPECT_EQ(shade(1e9, false), "#");
  EXPECT_EQ(shade(2, true), "\u2588");
}

TEST(top_frame, shows_nodes_the_map_and_what_is_under_way) {
  const json operations{{"items",
                         {{{"id", "op-1"}, {"kind", "migrate"}, {"object", "0/1"}, {"state", "done"}},
                          {{"id", "op-2"},
                           {"kind", "drain"},
                           {"object", "expert-2"},
                           {"state", "running"},
                           {"step", "copy"},
                           {"progress", 0.5}}}}};
  const auto frame = top_frame(status(), placement(2, {0.5, 0.3, 0.2, 0.0}), operations, {.utf8 = false});
  EXPECT_TRUE(shows(frame, "tiny  serving  term 1  epoch 4  imbalance 1.00  moving 0")) << frame;
  EXPECT_TRUE(shows(frame, "    0  |#+: |\n    1  |#+: |\n")) << frame;
  EXPECT_TRUE(shows(frame, "250")) << frame;
  EXPECT_TRUE(shows(frame, "op-2")) << frame;
  EXPECT_FALSE(shows(frame, "op-1")) << frame;
}

TEST(top_frame, plain_ascii_where_the_locale_wants_it) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  const auto plain = top_frame(status(), placement(1, {0.9, 0.1}), no_operations, {.utf8 = false});
  EXPECT_TRUE(std::ranges::all_of(plain, is_ascii)) << plain;
  const auto blocks = top_frame(status(), placement(1, {0.9, 0.1}), no_operations, {.utf8 = true});
  EXPECT_FALSE(std::ranges::all_of(blocks, is_ascii)) << blocks;
}

TEST(top_frame, an_expert_that_takes_no_part_counts_for_no_fair_share) {
  const auto frame = top_frame(status(), placement(1, {0.5, 0.5, 0.0}, "pruned"), no_operations, {.utf8 = false});
  EXPECT_TRUE(shows(frame, "|++-|")) << frame;
}

TEST(top_frame, experts_share_cells_and_layers_are_counted_when_there_are_too_many) {
  std::vector<double> shares(256, 0.0);
  shares[255] = 1.0;
  const auto frame =
      top_frame(status(), placement(60, shares), no_operations, {.width = 60, .height = 24, .utf8 = false});
  EXPECT_LE(std::ranges::count(frame, '\n'), 24) << frame;
  EXPECT_TRUE(shows(frame, "more layers")) << frame;
  const auto row = frame.find("    0  |");
  const auto end = frame.find('\n', row);
  EXPECT_LE(end - row, 60U) << frame;
  EXPECT_EQ(frame.substr(end - 2, 2), "#|") << frame;
}

TEST(top_frame, a_line_is_cut_between_characters) {
  EXPECT_EQ(cut_to("abc", 5), "abc");
  EXPECT_EQ(cut_to("abc", 2), "ab");
  EXPECT_EQ(cut_to("a\u2588\u2588", 2), "a\u2588");
  EXPECT_EQ(cut_to("abc", 0), "");
}

}  // namespace
}  // namespace troupe::cli
