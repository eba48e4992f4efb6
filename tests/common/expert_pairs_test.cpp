#include "common/expert_pairs.hpp"

#include <gmock/gmock.h>

#include <functional>
#include <map>
#include <random>

#include "proto/node_coordinator.pb.h"

namespace troupe {
namespace {

using ::testing::HasSubstr;
using truth = std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint64_t>;

// Rows of pairs of `experts` experts, of which a few are much more frequent than the others.
truth some_pairs(std::mt19937& random, std::uint32_t experts, int rows) {
  truth counted;
  std::geometric_distribution<std::uint32_t> drawn(0.1);
  for (int i = 0; i < rows; ++i) {
    auto a = drawn(random) % experts;
    auto b = drawn(random) % experts;
    if (a != b) ++counted[{std::min(a, b), std::max(a, b)}];
  }
  return counted;
}

pair_counts list_of(const truth& counted, std::size_t most) {
  pair_counts counts{1, {}, {}, 0};
  for (const auto& [experts, rows] : counted) counts.pairs.push_back({experts.first, experts.second, rows});
  counts.missed_max = keep_most(counts.pairs, most);
  return counts;
}

void expect_within_bound(const pair_counts& listed, truth counted, const std::string& story) {
  for (const auto& pair : listed.pairs) {
    auto rows = counted[{pair.first, pair.second}];
    EXPECT_LE(pair.rows, rows) << story;
    EXPECT_GE(pair.rows + listed.missed_max, rows) << story;
    counted.erase({pair.first, pair.second});
  }
  for (const auto& [experts, rows] : counted) EXPECT_LE(rows, listed.missed_max) << story;
}

TEST(expert_pairs, one_list_has_the_largest_and_misses_at_most_its_part_of_the_sum) {
  std::mt19937 random(1);
  for (int turn = 0; turn < 50; ++turn) {
    auto counted = some_pairs(random, 40, 3000);
    std::uint64_t sum = 0;
    for (const auto& [experts, rows] : counted) sum += rows;
    for (std::size_t most : {1U, 7U, 64U, 1000U}) {
      auto listed = list_of(counted, most);
      auto story = std::to_string(turn) + ": " + std::to_string(most);
      EXPECT_LE(listed.pairs.size(), most);
      EXPECT_LE(listed.missed_max, sum / (most + 1)) << story;
      EXPECT_TRUE(std::ranges::is_sorted(listed.pairs, std::ranges::greater{}, &expert_pair::rows)) << story;
      expect_within_bound(listed, counted, story);
    }
  }
}

TEST(expert_pairs, merged_lists_stay_short_and_know_what_they_may_have_missed) {
  std::mt19937 random(2);
  for (int turn = 0; turn < 50; ++turn) {
    truth all;
    pair_counts merged;
    std::uint64_t missed = 0;
    for (int router = 0; router < 6; ++router) {
      auto counted = some_pairs(random, 30, 500);
      for (const auto& [experts, rows] : counted) all[experts] += rows;
      merge(merged, list_of(counted, 16), 16);
      EXPECT_LE(merged.pairs.size(), 16U);
      EXPECT_GE(merged.missed_max, missed);
      missed = merged.missed_max;
      expect_within_bound(merged, all, std::to_string(turn));
    }
    EXPECT_EQ(merged.rows, 6U);
  }
}

TEST(expert_pairs, lists_with_room_for_all_are_exact) {
  pair_counts a{10, {5, 6, 7}, {{0, 2, 4}, {0, 1, 1}}, 0};
  merge(a, {4, {1, 2, 3, 4}, {{0, 1, 6}, {2, 3, 2}}, 0});
  EXPECT_EQ(a, (pair_counts{14, {6, 8, 10, 4}, {{0, 1, 7}, {0, 2, 4}, {2, 3, 2}}, 0}));
}

TEST(expert_pairs, travel_as_they_are) {
  pair_counts counts{1000, {900, 0, 800, 7}, {{0, 2, 700}, {2, 3, 7}}, 5};
  proto::LayerPairs message;
  to_proto(counts, message);
  proto::LayerPairs arrived;
  ASSERT_TRUE(arrived.ParseFromString(message.SerializeAsString()));
  auto read = pair_counts_from(arrived);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(*read, counts);
}

TEST(expert_pairs, a_full_list_fits_into_its_part_of_an_envelope) {
  pair_counts counts{~0ULL, std::vector<std::uint64_t>(limits::pair_experts_max, ~0ULL), {}, ~0ULL};
  for (std::uint32_t i = 0; i < limits::expert_pairs_max; ++i) counts.pairs.push_back({i % 250, 250 + i % 250, ~0ULL});
  proto::LayerPairs message;
  to_proto(counts, message);
  EXPECT_LT(message.ByteSizeLong() * (limits::layers_max / limits::pair_reports + 1), limits::envelope_bytes_max);
}

TEST(expert_pairs, what_cannot_be_is_refused_with_its_layer) {
  struct refusal {
    const char* what;
    std::function<void(proto::LayerPairs&)> spoil;
  };
  const refusal refusals[] = {
      {"1025 pairs",
       [](auto& m) {
         for (int i = 1; i < 1025; ++i) {
           m.add_first(0), m.add_second(1), m.add_pair_rows(1);
         }
       }},
      {"513 experts", [](auto& m) { m.mutable_expert_rows()->Resize(513, 1); }},
      {"differ in length", [](auto& m) { m.add_first(0); }},
      {"differ in length", [](auto& m) { m.mutable_pair_rows()->Clear(); }},
      {"0 and 3 are no pair of 3 experts", [](auto& m) { m.set_second(0, 3); }},
      {"1 and 1 are no pair", [](auto& m) { m.set_first(0, 1), m.set_second(0, 1); }},
      {"more rows than there were", [](auto& m) { m.set_expert_rows(2, 11); }},
      {"more rows together", [](auto& m) { m.set_pair_rows(0, 6); }},
  };
  for (const auto& [what, spoil] : refusals) {
    proto::LayerPairs message;
    to_proto({10, {9, 5, 8}, {{0, 1, 5}}, 0}, message);
    message.set_layer(7);
    ASSERT_TRUE(pair_counts_from(message));
    spoil(message);
    auto read = pair_counts_from(message);
    ASSERT_FALSE(read) << what;
    EXPECT_EQ(read.error().code, errc::invalid_request);
    EXPECT_THAT(read.error().message, HasSubstr(what));
    EXPECT_THAT(read.error().message, HasSubstr("layer 7"));
  }
}

}  // namespace
}  // namespace troupe
