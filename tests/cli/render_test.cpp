#include "cli/render.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace troupe::cli {
namespace {

const view nodes{.items = "items",
                 .columns = {{"NAME", "name"},
                             {"USED", "slots_used", cell::count},
                             {"RESIDENT", "bytes", cell::bytes},
                             {"ADDRESS", "address", cell::text, true}},
                 .name = "{name}"};

json two_nodes() {
  return {{"items",
           {{{"name", "expert-0"}, {"slots_used", 7}, {"bytes", 1536}, {"address", "ipc:///x"}},
            {{"name", "expert-12"}, {"slots_used", 123}, {"bytes", nullptr}, {"address", ""}}}}};
}

TEST(render, table_pads_and_right_aligns_numbers) {
  EXPECT_EQ(render(two_nodes(), output_format::table, nodes),
            "NAME       USED  RESIDENT\n"
            "expert-0      7   1.5 KiB\n"
            "expert-12   123         -\n");
}

TEST(render, wide_adds_columns) {
  EXPECT_EQ(render(two_nodes(), output_format::wide, nodes),
            "NAME       USED  RESIDENT  ADDRESS\n"
            "expert-0      7   1.5 KiB  ipc:///x\n"
            "expert-12   123         -  -\n");
}

TEST(render, name_prints_one_line_per_item) {
  EXPECT_EQ(render(two_nodes(), output_format::name, nodes), "expert-0\nexpert-12\n");
  const view experts{.items = "items", .columns = {}, .name = "{layer}/{expert}"};
  const json document{{"items", {{{"layer", 3}, {"expert", 17}}, {{"layer", "encoder.1"}, {"expert", 0}}}}};
  EXPECT_EQ(render(document, output_format::name, experts), "3/17\nencoder.1/0\n");
}

TEST(render, json_keeps_the_order_of_keys) {
  const json document{{"zebra", 1}, {"ant", {1, 2}}};
  EXPECT_EQ(render(document, output_format::json, {}), "{\n  \"zebra\": 1,\n  \"ant\": [\n    1,\n    2\n  ]\n}\n");
}

TEST(render, json_survives_text_that_is_no_utf8) {
  const json document{{"name", "\xff"}};
  EXPECT_EQ(render(document, output_format::json, {}), "{\n  \"name\": \"\xEF\xBF\xBD\"\n}\n");
}

TEST(render, yaml_quotes_strings_that_look_like_something_else) {
  const json document{{"items", {{{"name", "no"}, {"pid", 12}, {"ok", true}, {"address", nullptr}}}}};
  EXPECT_EQ(render(document, output_format::yaml, nodes),
            "items:\n  - name: \"no\"\n    pid: 12\n    ok: true\n    address: ~\n");
}

TEST(render, vertical_shows_one_line_per_column) {
  const view one{.items = "",
                 .columns = {{"STATE", "state"}, {"MODEL", "model/name"}, {"NODES", "#nodes"}},
                 .name = "",
                 .vertical = true};
  const json document{{"state", "serving"}, {"model", {{"name", "m"}}}, {"nodes", {1, 2, 3}}};
  EXPECT_EQ(render(document, output_format::table, one), "STATE  serving\nMODEL  m\nNODES  3\n");
}

TEST(render, control_characters_cannot_reach_the_terminal) {
  const json document{{"items", {{{"name", "a\x1b[31m\nb"}, {"slots_used", 0}, {"bytes", 0}}}}};
  const std::string shown = render(document, output_format::table, nodes);
  EXPECT_EQ(shown.find('\x1b'), std::string::npos);
  EXPECT_NE(shown.find("a\\x1b[31m\\x0ab"), std::string::npos);
}

TEST(render, lists_of_replicas_show_their_nodes) {
  const view shown{.items = "items", .columns = {{"REPLICAS", "replicas"}}, .name = ""};
  const json document{
      {"items", {{{"replicas", {{{"node", "expert-0"}, {"slot", 1}}, {{"node", "expert-2"}, {"slot", 0}}}}}}}};
  EXPECT_EQ(render(document, output_format::table, shown), "REPLICAS\nexpert-0,expert-2\n");
}

TEST(render, human_bytes_uses_binary_units) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes(3.5 * 1024 * 1024 * 1024), "3.5 GiB");
}

}  // namespace
}  // namespace troupe::cli
