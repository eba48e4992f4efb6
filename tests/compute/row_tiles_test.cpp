#include "compute/cuda/row_tiles.hpp"

#include <gtest/gtest.h>

#include <random>

namespace troupe::compute::cuda {
namespace {

std::vector<expert_rows> draw_groups(std::mt19937& random) {
  std::vector<expert_rows> groups(1 + random() % 40);
  std::uint32_t begin = 0;
  for (std::uint32_t g = 0; g < groups.size(); ++g) {
    const auto rows = 1 + static_cast<std::uint32_t>(random() % (random() % 4 == 0 ? 3000 : 40));
    groups[g] = {.slot = g * 7, .begin = begin, .rows = rows};
    begin += rows;
  }
  return groups;
}

TEST(row_tiles, hold_every_assignment_once_with_its_own_slot) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const auto groups = draw_groups(random);
    std::vector<std::uint32_t> slot_of(groups.back().begin + groups.back().rows, ~0U);
    for (const auto& tile : cut_into_tiles(groups)) {
      ASSERT_GE(tile.rows, 1U);
      ASSERT_LE(tile.rows, tile_rows_max);
      for (auto a = tile.first; a < tile.first + tile.rows; ++a) {
        ASSERT_EQ(slot_of.at(a), ~0U) << "twice";
        slot_of[a] = tile.slot;
      }
    }
    for (const auto& group : groups) {
      for (auto a = group.begin; a < group.begin + group.rows; ++a) ASSERT_EQ(slot_of[a], group.slot);
    }
  }
}

TEST(row_tiles, begin_with_the_largest_and_waste_less_than_a_unit_each) {
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    const auto groups = draw_groups(random);
    const auto tiles = cut_into_tiles(groups);
    for (const auto& tile : tiles) ASSERT_LE(padded(tile.rows), padded(tiles.front().rows));
    for (const auto& group : groups) {
      const auto each = tile_rows(group.rows);
      const auto pieces = (group.rows + each - 1) / each;
      ASSERT_LE(pieces, (group.rows + tile_rows_max - 1) / tile_rows_max);
      ASSERT_LT(pieces * each - group.rows, pieces * row_unit);
    }
  }
}

TEST(row_tiles, know_the_others_of_their_expert_in_any_part) {
  std::mt19937 random(5);
  auto tiles = cut_into_tiles(draw_groups(random));
  for (std::size_t begin = 0; begin < tiles.size(); begin += 5) {
    const auto part = std::span(tiles).subspan(begin, std::min<std::size_t>(5, tiles.size() - begin));
    const auto rows_max = link_tiles(part);
    unsigned widest = 0;
    for (std::size_t at = 0; at < part.size(); ++at) {
      ASSERT_LE(part[at].head, at);
      ASSERT_LT(at, std::size_t{part[at].head} + part[at].pieces);
      for (std::size_t other = 0; other < part.size(); ++other) {
        const bool is_same = other >= part[at].head && other < std::size_t{part[at].head} + part[at].pieces;
        ASSERT_EQ(part[other].slot == part[at].slot, is_same);
      }
      widest = std::max(widest, padded(part[at].rows));
    }
    EXPECT_EQ(rows_max, widest);
  }
}

}  // namespace
}  // namespace troupe::compute::cuda
