#include "expert_node/core/call_queue.hpp"

#include <random>

#include <gtest/gtest.h>

namespace troupe::expert {
namespace {

using std::chrono::seconds;

call_handle make_call(std::uint64_t request, std::uint32_t layer, std::uint32_t rows, seconds deadline = seconds{100}) {
  auto call = std::make_shared<expert_call>();
  call->id = {{1}, {request}, 0};
  call->layer = layer_id::of(layer);
  call->rows = rows;
  call->deadline = time_point{deadline};
  return call;
}

std::vector<std::uint64_t> requests(const std::vector<call_handle>& calls) {
  std::vector<std::uint64_t> numbers;
  for (const auto& call : calls) numbers.push_back(call->id.request.value);
  return numbers;
}

using numbers = std::vector<std::uint64_t>;

TEST(call_queue, merges_calls_of_the_oldest_calls_layer_oldest_first) {
  call_queue queue{100};
  queue.add(make_call(1, 3, 10));
  queue.add(make_call(2, 4, 10));
  queue.add(make_call(3, 3, 10));
  EXPECT_EQ(queue.rows(), 30U);
  EXPECT_EQ(requests(queue.take_batch()), (numbers{1, 3}));
  EXPECT_EQ(requests(queue.take_batch()), (numbers{2}));
  EXPECT_TRUE(queue.take_batch().empty());
  EXPECT_EQ(queue.rows(), 0U);
  EXPECT_EQ(queue.calls(), 0U);
}

TEST(call_queue, a_batch_ends_at_the_row_bound_without_overtaking) {
  call_queue queue{16};
  queue.add(make_call(1, 0, 10));
  queue.add(make_call(2, 0, 10));
  queue.add(make_call(3, 0, 1));
  EXPECT_EQ(requests(queue.take_batch()), (numbers{1}));
  EXPECT_EQ(requests(queue.take_batch()), (numbers{2, 3}));
}

TEST(call_queue, a_call_beyond_the_row_bound_comes_alone) {
  call_queue queue{16};
  queue.add(make_call(1, 0, 500));
  queue.add(make_call(2, 0, 1));
  EXPECT_EQ(requests(queue.take_batch()), (numbers{1}));
  EXPECT_EQ(requests(queue.take_batch()), (numbers{2}));
}

// Goal: whatever arrives, no call sees more batches pass than calls were waiting when it came.
// Method: a busy layer gets a new call before every batch while other layers wait.
TEST(call_queue, no_layer_starves_behind_a_busy_one) {
  std::mt19937 random{7};
  call_queue queue{8};
  std::uint64_t next = 1;
  for (int other = 1; other <= 5; ++other) queue.add(make_call(next++, static_cast<std::uint32_t>(other), 4));
  std::vector<std::uint64_t> order;
  for (int round = 0; round < 6; ++round) {
    for (std::uint32_t more = 0; more < 1 + random() % 3; ++more) queue.add(make_call(next++, 0, 4));
    for (auto number : requests(queue.take_batch())) order.push_back(number);
  }
  ASSERT_GE(order.size(), 6U);
  EXPECT_EQ((numbers{order.begin(), order.begin() + 5}), (numbers{1, 2, 3, 4, 5}));
}

TEST(call_queue, o10_passed_deadlines_leave_before_compute_wherever_they_wait) {
  call_queue queue{100};
  queue.add(make_call(1, 0, 1, seconds{50}));
  queue.add(make_call(2, 0, 1, seconds{10}));
  queue.add(make_call(3, 1, 1, seconds{20}));
  EXPECT_TRUE(queue.take_expired(time_point{seconds{9}}).empty());
  EXPECT_EQ(requests(queue.take_expired(time_point{seconds{20}})), (numbers{2, 3}));
  EXPECT_EQ(queue.calls(), 1U);
  EXPECT_EQ(requests(queue.take_batch()), (numbers{1}));
}

}  // namespace
}  // namespace troupe::expert
