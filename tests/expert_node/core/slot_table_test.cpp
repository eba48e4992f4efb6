#include "expert_node/core/slot_table.hpp"

#include <gtest/gtest.h>

namespace troupe::expert {
namespace {

using load_step = slot_table::load_step;
using free_step = slot_table::free_step;

slot_content content(std::uint32_t expert, std::uint32_t version = 1) { return {{layer_id::of(0), expert}, {version}}; }

constexpr loaded_facts facts{{}, 100, 120};

slot_table with_ready(std::uint32_t slot, const slot_content& held) {
  slot_table table{4};
  EXPECT_EQ(table.begin_load({slot}, held), load_step::start);
  EXPECT_TRUE(table.finish_load({slot}, facts));
  return table;
}

TEST(slot_table, a_loaded_expert_is_found_by_expert_and_version) {
  auto table = with_ready(2, content(7));
  EXPECT_EQ(table.pin(content(7)), slot_index{2});
  EXPECT_EQ(table.pin(content(7, 2)), std::nullopt);
  EXPECT_EQ(table.pin(content(8)), std::nullopt);
  EXPECT_EQ(table.used(), 1U);
  EXPECT_EQ(table.resident_bytes(), 120U);
}

TEST(slot_table, another_version_of_an_expert_is_found) {
  auto table = with_ready(2, content(7, 3));
  EXPECT_EQ(table.other_version(content(7, 4)), slot_index{2});
  EXPECT_EQ(table.other_version(content(7, 1)), slot_index{2});
  EXPECT_EQ(table.other_version(content(7, 3)), std::nullopt);
  EXPECT_EQ(table.other_version(content(6, 1)), std::nullopt);
  EXPECT_EQ(table.other_version(content(8, 1)), std::nullopt);
}

TEST(slot_table, an_expert_that_loads_is_not_served) {
  slot_table table{4};
  ASSERT_EQ(table.begin_load({0}, content(1)), load_step::start);
  EXPECT_EQ(table.pin(content(1)), std::nullopt);
}

TEST(slot_table, loads_are_idempotent_and_never_replace_what_is_there) {
  slot_table table{4};
  ASSERT_EQ(table.begin_load({0}, content(1)), load_step::start);
  EXPECT_EQ(table.begin_load({0}, content(1)), load_step::already_so);
  EXPECT_EQ(table.begin_load({0}, content(2)).error().code, errc::conflict);
  EXPECT_EQ(table.begin_load({1}, content(1)).error().code, errc::conflict) << "no second copy on one node";
  ASSERT_TRUE(table.finish_load({0}, facts));
  EXPECT_EQ(table.begin_load({0}, content(1)), load_step::already_so);
  EXPECT_EQ(table.begin_load({0}, content(1, 2)).error().code, errc::conflict);
  EXPECT_EQ(table.begin_load({1}, content(1, 2)), load_step::start) << "the next version goes beside it";
  EXPECT_EQ(table.begin_load({4}, content(3)).error().code, errc::not_found);
}

TEST(slot_table, a_failed_load_keeps_its_reason_and_may_be_tried_again) {
  slot_table table{4};
  ASSERT_EQ(table.begin_load({0}, content(1)), load_step::start);
  ASSERT_TRUE(table.fail_load({0}, {errc::corrupt, "digest differs"}, {}));
  auto inventory = table.inventory();
  ASSERT_EQ(inventory.size(), 1U);
  EXPECT_EQ(inventory[0].state, slot_report::phase::failed);
  EXPECT_EQ(inventory[0].reason->message, "digest differs");
  EXPECT_EQ(table.pin(content(1)), std::nullopt);
  EXPECT_EQ(table.begin_load({0}, content(2)), load_step::start);
}

TEST(slot_table, freeing_waits_for_the_last_user_and_takes_no_new_one) {
  auto table = with_ready(0, content(1));
  ASSERT_TRUE(table.pin(content(1)));
  ASSERT_TRUE(table.pin(content(1)));
  EXPECT_EQ(table.begin_free({0}, content(1)), free_step::wait);
  EXPECT_EQ(table.pin(content(1)), std::nullopt);
  EXPECT_FALSE(table.unpin({0}));
  EXPECT_EQ(table.begin_free({0}, content(1)), free_step::wait) << "repeated command";
  EXPECT_EQ(table.inventory()[0].state, slot_report::phase::freeing);
  EXPECT_TRUE(table.unpin({0}));
  table.finish_free({0});
  EXPECT_TRUE(table.inventory().empty());
  EXPECT_EQ(table.begin_free({0}, content(1)), free_step::already_empty);
}

TEST(slot_table, an_unused_slot_is_unloaded_at_once) {
  auto table = with_ready(0, content(1));
  EXPECT_EQ(table.begin_free({0}, content(1)), free_step::unload_now);
  EXPECT_EQ(table.begin_load({0}, content(1)).error().code, errc::conflict) << "its memory is still being emptied";
  table.finish_free({0});
  EXPECT_EQ(table.begin_load({0}, content(1)), load_step::start);
}

TEST(slot_table, a_free_for_other_content_changes_nothing) {
  auto table = with_ready(0, content(1));
  EXPECT_EQ(table.begin_free({0}, content(1, 2)).error().code, errc::conflict);
  EXPECT_EQ(table.begin_free({9}, content(1)).error().code, errc::not_found);
  EXPECT_TRUE(table.pin(content(1)));
}

TEST(slot_table, a_load_that_is_freed_midway_is_unloaded_when_it_ends) {
  slot_table table{2};
  ASSERT_EQ(table.begin_load({0}, content(1)), load_step::start);
  ASSERT_EQ(table.begin_load({1}, content(2)), load_step::start);
  EXPECT_EQ(table.begin_free({0}, content(1)), free_step::wait);
  EXPECT_EQ(table.begin_free({1}, content(2)), free_step::wait);
  EXPECT_FALSE(table.finish_load({0}, facts));
  EXPECT_EQ(table.pin(content(1)), std::nullopt);
  EXPECT_FALSE(table.fail_load({1}, {}, {}));
  table.finish_free({0});
  table.finish_free({1});
  EXPECT_EQ(table.used(), 0U);
}

}  // namespace
}  // namespace troupe::expert
