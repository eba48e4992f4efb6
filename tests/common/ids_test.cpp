#include "common/ids.hpp"

#include <gtest/gtest.h>

namespace troupe {
namespace {

TEST(layer_id, round_trips_through_its_three_forms) {
  for (const char* text : {"0", "3", "encoder.3", "decoder.16777215"}) {
    auto layer = parse_layer(text);
    ASSERT_TRUE(layer) << text;
    EXPECT_EQ(to_string(*layer), text);
  }
}

TEST(layer_id, refuses_everything_else) {
  for (const char* text :
       {"", "-1", "03", "3 ", "encoder.", "encoder", "16777216", "x.3", "3.", "99999999999999999999"}) {
    EXPECT_FALSE(parse_layer(text)) << text;
  }
}

TEST(expert_id, is_written_layer_slash_index) {
  auto expert = parse_expert("encoder.1/17");
  ASSERT_TRUE(expert);
  EXPECT_EQ(expert->layer, layer_id::of(1, layer_stack::encoder));
  EXPECT_EQ(expert->index, 17U);
  EXPECT_EQ(to_string(*expert), "encoder.1/17");
  for (const char* text : {"3", "3/", "/3", "3/-1", "3/1/2"}) EXPECT_FALSE(parse_expert(text)) << text;
}

TEST(node_name, is_a_lower_case_host_label) {
  EXPECT_TRUE(is_valid_node_name("expert-0"));
  EXPECT_FALSE(is_valid_node_name(""));
  EXPECT_FALSE(is_valid_node_name("-a"));
  EXPECT_FALSE(is_valid_node_name("Expert"));
  EXPECT_FALSE(is_valid_node_name("a b"));
  EXPECT_FALSE(is_valid_node_name(std::string(64, 'a')));
}

}  // namespace
}  // namespace troupe
