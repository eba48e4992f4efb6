// The waiting and giving up around a link of GPUs, with a backend and a clock that the test decides.
#include "compute/gpu_link.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "common/limits.hpp"
#include "tests/compute/loop_gpu.hpp"
#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

// What a backend was asked for and what it answers; outlives the link.
struct script {
  int looks_until_done{2};  // of each thing that is begun
  result<void> begins;      // what begin_* answers
  result<void> ends;        // what the last look answers
  std::vector<std::string> calls;
  std::vector<gpu_move> moves;
  int looks{};
};

class scripted_backend final : public gpu_link_backend {
 public:
  explicit scripted_backend(std::shared_ptr<script> follows) : script_(std::move(follows)) {}
  ~scripted_backend() override { script_->calls.emplace_back("gone"); }

  result<std::vector<std::byte>> make_key() override { return std::vector<std::byte>(3); }
  result<void> begin_connect(std::span<const std::byte>, std::uint32_t, std::uint32_t) override {
    return begin("connect");
  }
  result<void> begin_exchange(std::span<const gpu_move> moves) override {
    script_->moves.assign(moves.begin(), moves.end());
    return begin("exchange");
  }
  result<void> begin_close() override { return begin("close"); }
  result<bool> is_done() override {
    if (++script_->looks < script_->looks_until_done) return false;
    if (!script_->ends) return fail(script_->ends.error());
    // To itself: what is sent is what the next receive gets.
    for (std::size_t m = 0; m + 1 < script_->moves.size(); m += 2) {
      std::memcpy(script_->moves[m + 1].memory, script_->moves[m].memory, script_->moves[m].bytes);
    }
    script_->moves.clear();
    return true;
  }
  void abort() override { script_->calls.emplace_back("abort"); }

 private:
  result<void> begin(const char* what) {
    script_->calls.emplace_back(what);
    script_->looks = 0;
    return script_->begins;
  }

  std::shared_ptr<script> script_;
};

struct gpu_link_test : ::testing::Test {
  std::shared_ptr<script> follows = std::make_shared<script>();
  std::chrono::steady_clock::time_point now{};
  int pauses{};
  bool is_cancelled{};

  gpu_link_clock clock() {
    return {.now = [this] { return now; },
            .pause =
                [this] {
                  ++pauses;
                  now += std::chrono::seconds{1};
                },
            .cancelled = [this] { return is_cancelled; }};
  }
  result<gpu_link> connect() {
    return gpu_link::connect(std::make_unique<scripted_backend>(follows), std::vector<std::byte>(3), 0, 1, clock());
  }
  using names = std::vector<std::string>;
};

TEST_F(gpu_link_test, waits_for_each_step_and_closes_in_order) {
  {
    auto link = connect();
    ASSERT_TRUE(link) << link.error().message;
    EXPECT_EQ(pauses, 1);
    std::byte from[3]{std::byte{7}, std::byte{8}, std::byte{9}};
    std::byte to[3]{};
    const gpu_move moves[]{{gpu_move::direction::send, from, 3, 0}, {gpu_move::direction::receive, to, 3, 0}};
    ASSERT_TRUE(link->exchange(moves));
    EXPECT_TRUE(std::ranges::equal(from, to));
    ASSERT_TRUE(link->close());
    EXPECT_TRUE(link->close()) << "closed is closed";
    auto late = link->exchange(moves);
    ASSERT_FALSE(late);
    EXPECT_NE(late.error().message.find("is closed"), std::string::npos) << late.error().message;
  }
  EXPECT_EQ(follows->calls, (names{"connect", "exchange", "close", "gone"})) << "nothing was aborted";
}

TEST_F(gpu_link_test, gives_up_in_time_and_aborts_once) {
  follows->looks_until_done = 1'000'000;
  auto link = connect();
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code, errc::timeout);
  EXPECT_NE(link.error().message.find("connecting GPUs did not end within"), std::string::npos) << link.error().message;
  EXPECT_EQ(now.time_since_epoch(), limits::gpu_link_timeout);
  EXPECT_EQ(follows->calls, (names{"connect", "abort", "gone"}));
}

TEST_F(gpu_link_test, gives_up_at_once_when_it_is_cancelled) {
  follows->looks_until_done = 1'000'000;
  is_cancelled = true;
  auto link = connect();
  ASSERT_FALSE(link);
  EXPECT_EQ(link.error().code, errc::cancelled);
  EXPECT_EQ(pauses, 0);
  EXPECT_EQ(follows->calls, (names{"connect", "abort", "gone"}));
}

TEST_F(gpu_link_test, is_broken_for_good_after_an_error) {
  auto link = connect();
  ASSERT_TRUE(link);
  follows->ends = fail(errc::unavailable, "the other end went away");
  auto moved = link->exchange({});
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().message, "the other end went away");
  auto again = link->exchange({});
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().message.find("the other end went away"), std::string::npos) << again.error().message;
  EXPECT_TRUE(link->close()) << "there is nothing left to close";
  EXPECT_EQ(follows->calls, (names{"connect", "exchange", "abort", "gone"}));
}

TEST_F(gpu_link_test, does_not_wait_for_what_did_not_begin) {
  follows->begins = fail(errc::unavailable, "duplicate GPU");
  auto link = connect();
  ASSERT_FALSE(link);
  EXPECT_EQ(pauses, 0);
  EXPECT_EQ(follows->calls, (names{"connect", "abort", "gone"}));
}

TEST_F(gpu_link_test, is_aborted_when_nobody_closes_it) {
  { ASSERT_TRUE(connect()); }
  EXPECT_EQ(follows->calls, (names{"connect", "abort", "gone"}));
}

TEST_F(gpu_link_test, takes_an_expert_from_slot_to_slot_as_it_lies_there) {
  for (const auto type : {dtype::f32, dtype::bf16}) {
    const model::expert_shape shape{33, 70, model::activation::clamped_glu, true};
    auto giver = *make_gpu_device(make_loop_gpu(std::make_shared<loop_gpu_state>()), type);
    auto taker = *make_gpu_device(make_loop_gpu(std::make_shared<loop_gpu_state>()), type);
    ASSERT_TRUE(giver->reserve(2, giver->slot_bytes(shape)));
    ASSERT_TRUE(taker->reserve(3, taker->slot_bytes(shape)));
    const auto sample = make_sample(shape, dtype::bf16, stored_form::interleaved_transposed, 7);
    ASSERT_TRUE(giver->load({1}, sample.layout, sample.bundle));

    auto from = giver->slot_memory({1}, shape);
    auto to = taker->slot_memory({2}, shape);
    ASSERT_EQ(from.size(), to.size());
    ASSERT_FALSE(from.empty());
    auto link = connect();
    ASSERT_TRUE(link);
    const gpu_move moves[]{{gpu_move::direction::send, from.data(), from.size(), 0},
                           {gpu_move::direction::receive, to.data(), to.size(), 0}};
    ASSERT_TRUE(link->exchange(moves));
    ASSERT_TRUE(link->close());
    ASSERT_TRUE(taker->adopt({2}, sample.layout));
    std::vector<std::byte> again(sample.bundle.size());
    ASSERT_TRUE(taker->export_bundle({2}, sample.layout, again));
    EXPECT_EQ(again, sample.bundle) << "so that its digest can be compared with the checkpoint's";
    auto work = make_batch(shape, type, 3, 1, 1, 4);
    work.groups[0].slot = {2};
    ASSERT_TRUE(taker->run(work.view(), work.reports));
  }
}

TEST_F(gpu_link_test, slots_are_adopted_only_where_an_expert_could_be_loaded) {
  const model::expert_shape shape{40, 24, model::activation::swiglu, false};
  auto d = *make_gpu_device(make_loop_gpu(std::make_shared<loop_gpu_state>()), dtype::bf16);
  ASSERT_TRUE(d->reserve(2, d->slot_bytes(shape)));
  const auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 1);
  EXPECT_EQ(d->adopt({5}, sample.layout).error().code, errc::invalid_request);
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
  EXPECT_EQ(d->adopt({0}, sample.layout).error().code, errc::conflict);
  const auto wide = make_sample(shape, dtype::f32, stored_form::separate, 1);
  EXPECT_EQ(d->adopt({1}, wide.layout).error().code, errc::invalid_request) << "its digest could not be checked";
  EXPECT_TRUE(d->slot_memory({1}, {400, 24, model::activation::swiglu, false}).empty()) << "larger than a slot";
  EXPECT_TRUE(d->slot_memory({7}, shape).empty());
  auto cpu = *make_cpu_device({.type = dtype::f32, .threads = 1});
  EXPECT_TRUE(cpu->slot_memory({0}, shape).empty());
  EXPECT_EQ(cpu->adopt({0}, sample.layout).error().code, errc::invalid_request);
}

TEST(gpu_link_plugin, is_refused_with_the_reason) {
  auto missing = open_gpu_link("/nowhere/libtroupe_nccl.so", 3);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, errc::unavailable);
  EXPECT_NE(missing.error().message.find("cuda:3 cannot be linked"), std::string::npos) << missing.error().message;
}

}  // namespace
}  // namespace troupe::compute::test
