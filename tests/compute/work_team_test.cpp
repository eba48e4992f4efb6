#include "compute/work_team.hpp"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace troupe::compute {
namespace {

TEST(work_team, does_every_task_exactly_once) {
  // With as many threads as there are CPUs, each has its own.
  for (std::uint32_t threads : {1U, 2U, 5U, std::thread::hardware_concurrency()}) {
    auto team = *work_team::start(threads, "a test");
    EXPECT_EQ(team->threads(), threads);
    for (int job = 0; job < 2000; ++job) {
      auto tasks = static_cast<std::uint32_t>(job % 37);
      std::vector<std::atomic<int>> done(tasks);
      std::atomic<bool> bad_worker{false};
      auto task = [&](std::uint32_t number, std::uint32_t worker) {
        done[number].fetch_add(1);
        if (worker >= threads) bad_worker = true;
      };
      ASSERT_TRUE(team->run(tasks, job % 5 == 0, task));
      for (auto& count : done) ASSERT_EQ(count.load(), 1) << "job " << job << " of " << threads << " threads";
      ASSERT_FALSE(bad_worker);
    }
  }
}

TEST(work_team, what_tasks_wrote_is_seen_after_run) {
  auto team = *work_team::start(3, "a test");
  std::vector<int> values(1000);
  for (int round = 1; round <= 200; ++round) {
    auto task = [&](std::uint32_t number, std::uint32_t) { values[number] += round; };
    ASSERT_TRUE(team->run(1000, false, task));
  }
  for (int value : values) ASSERT_EQ(value, 200 * 201 / 2);
}

TEST(work_team, a_throwing_task_is_reported_and_the_team_lives_on) {
  auto team = *work_team::start(2, "a test");
  std::atomic<int> done{0};
  auto task = [&](std::uint32_t number, std::uint32_t) {
    if (number == 3) throw std::runtime_error("broken");
    done.fetch_add(1);
  };
  auto failed = team->run(8, false, task);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, errc::internal);
  EXPECT_NE(failed.error().message.find("task 3 failed: broken"), std::string::npos);
  EXPECT_EQ(done.load(), 7);
  auto fine = [&](std::uint32_t, std::uint32_t) { done.fetch_add(1); };
  EXPECT_TRUE(team->run(8, false, fine));
  EXPECT_EQ(done.load(), 15);
}

TEST(work_team, runs_alone_on_the_calling_thread) {
  auto team = *work_team::start(4, "a test");
  auto caller = std::this_thread::get_id();
  bool foreign = false;
  auto task = [&](std::uint32_t, std::uint32_t worker) {
    foreign = foreign || worker != 0 || std::this_thread::get_id() != caller;
  };
  ASSERT_TRUE(team->run(100, true, task));
  EXPECT_FALSE(foreign);
}

// The calling thread comes to each CPU in turn, and takes the seat of its worker there: no two threads of a job may
// have the same number, not even when a worker wakes late, in the middle of a later job.
TEST(work_team, no_two_threads_share_a_number_while_the_caller_wanders) {
  const auto cpus = std::thread::hardware_concurrency();
  auto team = *work_team::start(cpus, "a test");
  std::vector<std::atomic<int>> inside(cpus);
  std::atomic<bool> shared{false};
  auto task = [&](std::uint32_t, std::uint32_t worker) {
    if (inside[worker].fetch_add(1) != 0) shared = true;
    inside[worker].fetch_sub(1);
  };
  std::thread([&] {
    for (int job = 0; job < 4000; ++job) {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(static_cast<std::size_t>(job / 3) % cpus, &one);
      ::sched_setaffinity(0, sizeof one, &one);
      ASSERT_TRUE(team->run(20, false, task));
    }
  }).join();
  EXPECT_FALSE(shared);
}

TEST(work_team, refuses_no_threads_and_too_many) {
  for (std::uint32_t threads : {0U, 100'000U}) {
    auto refused = work_team::start(threads, "a device");
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, errc::invalid_request);
    EXPECT_NE(refused.error().message.find("a device with"), std::string::npos);
  }
}

}  // namespace
}  // namespace troupe::compute
