#include "router_node/core/generation/kv_block_pool.hpp"

#include <set>

#include <gtest/gtest.h>

namespace troupe::router {
namespace {

constexpr auto size = limits::kv_block_tokens;

std::vector<token_number> filled_with(token_number first) {
  std::vector<token_number> tokens(size);
  for (std::uint32_t i = 0; i < size; ++i) tokens[i] = first + i;
  return tokens;
}

class kv_block_pool_test : public testing::Test {
 protected:
  ~kv_block_pool_test() override { EXPECT_EQ(pool.find_inconsistency(), ""); }

  block_index take() {
    const auto block = pool.allocate();
    EXPECT_TRUE(block);
    return block.value_or(0);
  }

  kv_block_pool pool{4};
};

TEST_F(kv_block_pool_test, gives_every_block_once) {
  std::set<block_index> blocks;
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(blocks.insert(take()).second);
  EXPECT_FALSE(pool.allocate());
  EXPECT_EQ(pool.in_use(), 4U);
  for (const auto block : blocks) pool.release(block);
  EXPECT_EQ(pool.in_use(), 0U);
}

TEST_F(kv_block_pool_test, a_published_block_is_found_and_shared) {
  const auto block = take();
  EXPECT_FALSE(pool.find_block({}, filled_with(0)));
  const auto known = pool.publish({}, filled_with(0), block);
  EXPECT_EQ(known.block, block);
  const auto found = pool.find_block({}, filled_with(0));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->block, block);
  EXPECT_EQ(found->prefix, known.prefix);
  EXPECT_EQ(pool.users(block), 2U);
  EXPECT_FALSE(pool.find_block({}, filled_with(1))) << "other tokens";
  EXPECT_FALSE(pool.find_block(known.prefix, filled_with(0))) << "the same tokens behind other ones";
  pool.release(block);
  EXPECT_EQ(pool.in_use(), 1U);
  pool.release(block);
  EXPECT_EQ(pool.in_use(), 0U);
  EXPECT_TRUE(pool.find_block({}, filled_with(0))) << "free blocks are still known";
  pool.release(block);
}

TEST_F(kv_block_pool_test, the_second_one_with_the_same_text_moves_to_the_first_block) {
  const auto first = pool.publish({}, filled_with(0), take());
  const auto own = take();
  const auto second = pool.publish({}, filled_with(0), own);
  EXPECT_EQ(second.block, first.block);
  EXPECT_EQ(second.prefix, first.prefix);
  EXPECT_EQ(pool.users(own), 0U);
  EXPECT_EQ(pool.users(first.block), 2U);
  pool.release(first.block);
  pool.release(second.block);
}

TEST_F(kv_block_pool_test, forgets_what_was_released_longest_ago_from_the_end_of_a_text) {
  const auto a = pool.publish({}, filled_with(0), take());
  const auto b = pool.publish(a.prefix, filled_with(16), take());
  const auto other = pool.publish({}, filled_with(100), take());
  pool.release_all(std::vector{a.block, b.block});
  pool.release(other.block);
  EXPECT_EQ(pool.known(), 3U);
  const auto unknown = take();  // the one that never held anything
  EXPECT_EQ(pool.known(), 3U);
  EXPECT_EQ(take(), b.block) << "the end of the text that was released first";
  ASSERT_TRUE(pool.find_block({}, filled_with(0)));  // used again: now the other text is the older one
  pool.release(a.block);
  EXPECT_EQ(take(), other.block);
  EXPECT_FALSE(pool.find_block({}, filled_with(100)));
  EXPECT_EQ(take(), a.block);
  EXPECT_EQ(pool.known(), 0U);
  pool.release_all(std::vector{unknown, a.block, b.block, other.block});
}

TEST_F(kv_block_pool_test, a_text_that_was_forgotten_and_came_back_is_another_prefix) {
  const auto a = pool.publish({}, filled_with(0), take());
  const auto b = pool.publish(a.prefix, filled_with(16), take());
  pool.release_all(std::vector{a.block, b.block});
  std::vector<block_index> all;
  for (int i = 0; i < 4; ++i) all.push_back(take());
  const auto again = pool.publish({}, filled_with(0), all[0]);
  EXPECT_NE(again.prefix, a.prefix);
  EXPECT_FALSE(pool.find_block(again.prefix, filled_with(16)));
  pool.release_all(all);
}

}  // namespace
}  // namespace troupe::router
