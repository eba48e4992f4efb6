#include "compute/work_team.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace troupe::compute {
namespace {

TEST(work_team, does_every_task_exactly_once) {
  for (std::uint32_t threads : {1U, 2U, 5U}) {
    work_team team(threads);
    EXPECT_EQ(team.threads(), threads);
    for (int job = 0; job < 2000; ++job) {
      auto tasks = static_cast<std::uint32_t>(job % 37);
      std::vector<std::atomic<int>> done(tasks);
      std::atomic<bool> bad_worker{false};
      auto task = [&](std::uint32_t number, std::uint32_t worker) {
        done[number].fetch_add(1);
        if (worker >= threads) bad_worker = true;
      };
      ASSERT_TRUE(team.run(tasks, job % 5 == 0, task));
      for (auto& count : done) ASSERT_EQ(count.load(), 1) << "job " << job << " of " << threads << " threads";
      ASSERT_FALSE(bad_worker);
    }
  }
}

TEST(work_team, what_tasks_wrote_is_seen_after_run) {
  work_team team(3);
  std::vector<int> values(1000);
  for (int round = 1; round <= 200; ++round) {
    auto task = [&](std::uint32_t number, std::uint32_t) { values[number] += round; };
    ASSERT_TRUE(team.run(1000, false, task));
  }
  for (int value : values) ASSERT_EQ(value, 200 * 201 / 2);
}

TEST(work_team, a_throwing_task_is_reported_and_the_team_lives_on) {
  work_team team(2);
  std::atomic<int> done{0};
  auto task = [&](std::uint32_t number, std::uint32_t) {
    if (number == 3) throw std::runtime_error("broken");
    done.fetch_add(1);
  };
  auto failed = team.run(8, false, task);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, errc::internal);
  EXPECT_NE(failed.error().message.find("task 3 failed: broken"), std::string::npos);
  EXPECT_EQ(done.load(), 7);
  auto fine = [&](std::uint32_t, std::uint32_t) { done.fetch_add(1); };
  EXPECT_TRUE(team.run(8, false, fine));
  EXPECT_EQ(done.load(), 15);
}

TEST(work_team, runs_alone_on_the_calling_thread) {
  work_team team(4);
  auto caller = std::this_thread::get_id();
  bool foreign = false;
  auto task = [&](std::uint32_t, std::uint32_t worker) {
    foreign = foreign || worker != 0 || std::this_thread::get_id() != caller;
  };
  ASSERT_TRUE(team.run(100, true, task));
  EXPECT_FALSE(foreign);
}

}  // namespace
}  // namespace troupe::compute
