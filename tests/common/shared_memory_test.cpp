// Shared memory between processes, and the pool that hands out its ranges.
#include "common/wire/shared_memory.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <vector>

#include "common/limits.hpp"
#include "wire_fixture.hpp"

namespace troupe::wire {
namespace {

bool exists(const std::string& name) { return std::filesystem::exists("/dev/shm" + name); }

TEST(shared_segment, is_seen_by_both_sides_after_its_name_is_gone) {
  auto mine = must(shared_segment::create("cluster-1", 4096));
  EXPECT_TRUE(exists(mine.name()));
  auto theirs = must(shared_segment::open(mine.name(), 4096));
  mine.unlink();
  EXPECT_FALSE(exists(mine.name()));
  mine.bytes()[100] = std::byte{42};
  EXPECT_EQ(theirs.bytes()[100], std::byte{42});
  auto moved = std::move(mine);
  EXPECT_EQ(moved.bytes()[100], std::byte{42});
}

TEST(shared_segment, leaves_no_name_behind_when_nobody_mapped_it) {
  std::string name;
  {
    auto mine = must(shared_segment::create("cluster-1", 4096));
    name = mine.name();
    EXPECT_EQ(std::filesystem::status("/dev/shm" + name).permissions(),
              std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  }
  EXPECT_FALSE(exists(name));
}

TEST(shared_segment, refuses_names_and_sizes_that_are_not_ours) {
  for (const char* name : {"", "/", "/etc", "/troupe-", "/troupe-x-1", "/troupe-x-abc-0", "/../etc/passwd",
                           "/troupe-a/b-1-2", "troupe-x-1-0"}) {
    EXPECT_EQ(shared_segment::open(name, 4096).error().code, errc::invalid_request) << name;
  }
  EXPECT_EQ(shared_segment::open("/troupe-x-1-999999", 4096).error().code, errc::not_found);
  auto mine = must(shared_segment::create("c", 4096));
  EXPECT_EQ(shared_segment::open(mine.name(), 8192).error().code, errc::invalid_request);
  EXPECT_EQ(shared_segment::create("c", 0).error().code, errc::invalid_request);
  EXPECT_EQ(shared_segment::create("c", limits::segment_bytes_max + 1).error().code, errc::too_large);
}

TEST(shared_segment, of_a_killed_process_is_removed) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto segment = shared_segment::create("crashed", 4096);
    if (segment) {
      [[maybe_unused]] const auto written = ::write(ends[1], segment->name().data(), segment->name().size());
    }
    ::_exit(0);  // without unwinding, as when killed
  }
  ::close(ends[1]);
  std::string name(128, '\0');
  const auto got = ::read(ends[0], name.data(), name.size());
  ::close(ends[0]);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  ASSERT_GT(got, 0);
  name.resize(static_cast<std::size_t>(got));
  ASSERT_TRUE(exists(name));
  auto living = must(shared_segment::create("alive", 4096));
  EXPECT_GE(remove_stale_segments(), 1U);
  EXPECT_FALSE(exists(name));
  EXPECT_TRUE(exists(living.name()));
}

TEST(machine_id, is_the_same_every_time) {
  EXPECT_EQ(machine_id(), machine_id());
  EXPECT_FALSE(machine_id().empty());
}

TEST(range_pool, hands_out_aligned_ranges_until_it_is_full) {
  range_pool pool(1000, 64);
  EXPECT_EQ(pool.bytes_total(), 960U);
  const auto first = pool.take(1);
  const auto second = pool.take(65);
  EXPECT_EQ(first, (memory_range{0, 64}));
  EXPECT_EQ(second, (memory_range{64, 128}));
  EXPECT_FALSE(pool.take(769));
  EXPECT_TRUE(pool.take(768));
  EXPECT_FALSE(pool.take(1));
  EXPECT_FALSE(pool.take(0));
  EXPECT_EQ(pool.bytes_taken(), 960U);
}

TEST(range_pool, joins_neighbours_when_they_come_back) {
  range_pool pool(3 * 64);
  const auto a = *pool.take(64);
  const auto b = *pool.take(64);
  const auto c = *pool.take(64);
  EXPECT_TRUE(pool.give_back(a));
  EXPECT_TRUE(pool.give_back(c));
  EXPECT_FALSE(pool.take(128));
  EXPECT_TRUE(pool.give_back(b));
  EXPECT_EQ(pool.take(192), (memory_range{0, 192}));
}

TEST(range_pool, keeps_a_quarantined_range_away_until_its_user_answered) {
  range_pool pool(128);
  const auto given_up = *pool.take(64);
  EXPECT_TRUE(pool.quarantine(given_up));
  EXPECT_EQ(pool.bytes_quarantined(), 64U);
  EXPECT_FALSE(pool.give_back(given_up)) << "only an answer frees it";
  EXPECT_EQ(pool.take(64)->offset, 64U);
  EXPECT_FALSE(pool.take(64));
  EXPECT_TRUE(pool.release(given_up));
  EXPECT_FALSE(pool.release(given_up));
  EXPECT_EQ(pool.bytes_quarantined(), 0U);
  EXPECT_EQ(pool.take(64), given_up);
}

TEST(range_pool, refuses_ranges_that_it_did_not_hand_out) {
  range_pool pool(256);
  const auto range = *pool.take(64);
  EXPECT_FALSE(pool.give_back({range.offset, 128}));
  EXPECT_FALSE(pool.give_back({64, 64}));
  EXPECT_FALSE(pool.quarantine({192, 64}));
  EXPECT_TRUE(pool.give_back(range));
  EXPECT_FALSE(pool.give_back(range));
}

TEST(range_pool, never_overlaps_under_random_use) {
  std::mt19937 random(7);
  range_pool pool(64 * 64);
  std::vector<memory_range> taken;
  for (int step = 0; step < 20'000; ++step) {
    if (taken.empty() || random() % 2 == 0) {
      const auto range = pool.take(1 + random() % 600);
      if (!range) continue;
      for (const auto& other : taken) {
        ASSERT_TRUE(range->offset + range->bytes <= other.offset || other.offset + other.bytes <= range->offset);
      }
      ASSERT_LE(range->offset + range->bytes, pool.bytes_total());
      taken.push_back(*range);
    } else {
      const auto index = random() % taken.size();
      const bool suspect = random() % 4 == 0;
      ASSERT_TRUE(!suspect || pool.quarantine(taken[index]));
      ASSERT_TRUE(suspect ? pool.release(taken[index]) : pool.give_back(taken[index]));
      taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(index));
    }
  }
  for (const auto& range : taken) ASSERT_TRUE(pool.give_back(range));
  EXPECT_EQ(pool.take(64 * 64), (memory_range{0, 64 * 64}));
}

}  // namespace
}  // namespace troupe::wire
