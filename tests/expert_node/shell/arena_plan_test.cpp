#include "expert_node/shell/arena_plan.hpp"

#include <gtest/gtest.h>

#include "tests/expert_node/shell/fakes.hpp"

namespace troupe::expert {
namespace {

// Two layers: 3 experts of 400 bytes, 2 of 800 (the fake device takes four bytes per hidden element).
model::description two_layers() {
  model::description model;
  for (auto [hidden, experts] : {std::pair{100U, 3U}, std::pair{200U, 2U}}) {
    model::moe_layer layer;
    layer.shape.hidden = hidden;
    layer.experts.resize(experts);
    model.layers.push_back(layer);
  }
  return model;
}

class arena_plan_test : public ::testing::Test {
 protected:
  testing::fake_device device{std::make_shared<testing::device_log>()};
  model::description model = two_layers();
};

TEST_F(arena_plan_test, a_slot_holds_the_largest_expert) {
  auto size = plan_arena({.slots = 7}, &model, device);
  ASSERT_TRUE(size);
  EXPECT_EQ(size->slots, 7U);
  EXPECT_EQ(size->bytes_per_slot, 800U);
}

TEST_F(arena_plan_test, memory_decides_when_slots_are_not_given) {
  EXPECT_EQ(plan_arena({.memory_bytes = 2500}, &model, device)->slots, 3U);
  EXPECT_EQ(plan_arena({.memory_bytes = 1 << 20}, &model, device)->slots, 5U) << "no more than there are experts";
  EXPECT_EQ(plan_arena({.available_bytes = 2000}, &model, device)->slots, 2U) << "80 % of what is available";
  EXPECT_EQ(plan_arena({.memory_bytes = 799}, &model, device).error().code, errc::out_of_memory);
}

TEST_F(arena_plan_test, contradictions_name_both_numbers) {
  auto refused = plan_arena({.slots = 4, .memory_bytes = 3000}, &model, device);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("800"), std::string::npos);
  EXPECT_NE(refused.error().message.find("3000"), std::string::npos);
  EXPECT_FALSE(plan_arena({.slots = 0}, &model, device));
}

TEST_F(arena_plan_test, without_a_model_both_numbers_are_needed) {
  EXPECT_EQ(plan_arena({.slots = 4, .memory_bytes = 4000}, nullptr, device)->bytes_per_slot, 1000U);
  EXPECT_FALSE(plan_arena({.slots = 4}, nullptr, device));
  EXPECT_FALSE(plan_arena({.memory_bytes = 4000}, nullptr, device));
}

TEST(parse_bytes, reads_numbers_with_units) {
  EXPECT_EQ(parse_bytes("1048576"), 1048576U);
  EXPECT_EQ(parse_bytes("512M"), 512ULL << 20);
  EXPECT_EQ(parse_bytes("1.5GiB"), 3ULL << 29);
  EXPECT_EQ(parse_bytes("40gb"), 40ULL << 30);
  for (const char* text : {"", "x", "-1", "1Q", "M", "1 G", "99999999999T", "nan", "inf"}) {
    EXPECT_EQ(parse_bytes(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace troupe::expert
