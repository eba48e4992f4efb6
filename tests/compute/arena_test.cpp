#include "compute/arena.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace troupe::compute {
namespace {

TEST(slot_arena, slots_are_page_aligned_and_apart) {
  auto arena = slot_arena::make(3, 5000);
  ASSERT_TRUE(arena);
  EXPECT_EQ(arena->bytes(), 3U * 5000);
  for (std::uint32_t i = 0; i < 3; ++i) {
    auto slot = arena->slot({i});
    EXPECT_EQ(slot.size(), 5000U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slot.data()) % 4096, 0U);
    std::memset(slot.data(), static_cast<int>(i + 1), slot.size());
  }
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(arena->slot({i})[4999], std::byte(i + 1));
}

TEST(slot_arena, a_released_slot_is_zero_and_the_others_stay) {
  auto arena = slot_arena::make(3, 5U << 20);
  ASSERT_TRUE(arena);
  for (std::uint32_t i = 0; i < 3; ++i) std::memset(arena->slot({i}).data(), 7, 5U << 20);
  arena->release({1});
  for (std::byte value : arena->slot({1})) ASSERT_EQ(value, std::byte{0});
  for (std::byte value : arena->slot({0})) ASSERT_EQ(value, std::byte{7});
  for (std::byte value : arena->slot({2})) ASSERT_EQ(value, std::byte{7});
}

TEST(slot_arena, refuses_nonsense_with_the_numbers) {
  for (auto [slots, bytes] : {std::pair{0U, std::size_t{1}}, {1U, std::size_t{0}}, {1U << 30, std::size_t{1}}}) {
    auto refused = slot_arena::make(slots, bytes);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, errc::invalid_request);
  }
  for (std::size_t bytes : {std::size_t{1} << 46, std::size_t{1} << 62}) {
    auto refused = slot_arena::make(1000, bytes);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, errc::out_of_memory);
    EXPECT_NE(refused.error().message.find(std::to_string(bytes)), std::string::npos);
  }
}

TEST(slot_arena, moves) {
  auto arena = slot_arena::make(1, 10);
  ASSERT_TRUE(arena);
  auto* first = arena->slot({0}).data();
  slot_arena other = std::move(*arena);
  EXPECT_EQ(other.slot({0}).data(), first);
  other = std::move(*slot_arena::make(2, 20));
  EXPECT_EQ(other.slots(), 2U);
}

}  // namespace
}  // namespace troupe::compute
