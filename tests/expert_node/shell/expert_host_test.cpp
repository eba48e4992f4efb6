// The expert host on CAF's deterministic scheduler: the test decides which message is handled when.
#include "expert_node/shell/expert_host.hpp"

#include <gtest/gtest.h>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>

#include "tests/expert_node/shell/fakes.hpp"

namespace troupe::expert {
namespace {

using testing::ask;
using testing::make_call;
using testing::output_of;

constexpr std::uint32_t width = 2;
constexpr layer_id layer = layer_id::of(3);

caf::actor_system_config& deterministic(caf::actor_system_config& config) {
  config.set("scheduler.policy", caf::atom("testing"));
  return config;
}

class expert_host_test : public ::testing::Test {
 protected:
  expert_host_test() {
    expert_host_settings settings;
    settings.make_device = [this]() -> result<std::unique_ptr<compute::device>> {
      return std::make_unique<testing::fake_device>(log);
    };
    settings.size_arena = [](const compute::device&) -> result<arena_size> { return arena_size{4, 64}; };
    settings.probe = [this](compute::device&, slot_index, const compute::probe_sample&) { return probe_outcome; };
    settings.statistics_interval = std::chrono::milliseconds{0};
    settings.ports = ports;
    settings.now = [this] { return now; };
    settings.batch_rows_max = 8;
    EXPECT_TRUE(validate(settings));
    host = spawn_expert_host(system, std::move(settings), host_thread::shared);
    run();
    started = request<host_started>(start_host{}).facts;
  }

  ~expert_host_test() override {
    if (host) request<host_stopped>(stop_host{});
    EXPECT_EQ(log->released_on, log->made_on);
  }

  void run() { scheduler.run(); }

  template <class Message>
  void send(Message message) {
    caf::anon_send(host, std::move(message));
  }

  template <class Reply, class Message>
  Reply request(Message message) {
    Reply got;
    caf::scoped_actor self{system};
    auto answer = self->request(host, caf::infinite, std::move(message));
    run();
    answer.receive([&got](const Reply& reply) { got = reply; },
                   [](const caf::error&) { ADD_FAILURE() << "the host did not answer"; });
    return got;
  }

  void command_load(std::uint32_t slot, std::uint32_t expert, std::uint64_t term = 1, std::uint32_t version = 1) {
    send(load_expert{{term}, {{slot}, {{layer, expert}, {version}}, std::nullopt, {}}});
    run();
  }

  // Does what the loader would do.
  void finish_load(std::uint32_t slot, std::uint32_t expert, float factor) {
    auto layout = std::make_shared<model::bundle_layout>();
    layout->id = {layer, expert};
    layout->shape = {.hidden = width, .width = 1};
    ASSERT_TRUE(started->memory->load({slot}, *layout, std::as_bytes(std::span{&factor, 1})));
    send(slot_loaded{{slot}, layout, {{}, sizeof factor, 8}, std::make_shared<compute::probe_sample>()});
    run();
  }

  void hold(std::uint32_t slot, std::uint32_t expert, float factor) {
    command_load(slot, expert);
    finish_load(slot, expert, factor);
  }

  call_handle call(std::uint64_t number, std::vector<float> hidden) {
    auto made = make_call(number, layer, width, std::move(hidden));
    made->arrived = now;
    made->deadline = now + std::chrono::seconds{10};
    return made;
  }

  slot_report::phase phase_of(std::uint32_t slot) const {
    for (const auto& report : ports->inventories.back()) {
      if (report.slot.value == slot) return report.state;
    }
    ADD_FAILURE() << "slot " << slot << " is empty";
    return {};
  }

  time_point now{std::chrono::hours{1}};
  std::shared_ptr<testing::device_log> log = std::make_shared<testing::device_log>();
  std::shared_ptr<testing::recording_ports> ports = std::make_shared<testing::recording_ports>();
  result<void> probe_outcome;
  caf::actor_system_config config;
  caf::actor_system system{deterministic(config)};
  caf::scheduler::test_coordinator& scheduler = dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler());
  expert_host_actor host;
  result<host_facts> started;
};

TEST_F(expert_host_test, weighs_and_sums_its_experts_and_counts_them) {
  ASSERT_TRUE(started);
  EXPECT_EQ(started->slots, 4U);
  hold(0, 5, 10.0F);
  hold(2, 6, 100.0F);
  auto asked = call(1, {1, 2, 3, 4});
  ask(*asked, 5, 0.5F);
  ask(*asked, 6, 0.25F);
  send(serve_call{asked});
  run();
  ASSERT_EQ(ports->answers.size(), 1U);
  EXPECT_FALSE(asked->outcome.failed);
  EXPECT_TRUE(asked->outcome.not_held.empty());
  EXPECT_EQ(output_of(*asked), (std::vector<float>{30, 60, 90, 120}));
  send(report_statistics{});
  run();
  const auto& report = ports->reports.back();
  ASSERT_EQ(report.changed.size(), 2U);
  EXPECT_EQ(report.changed[0].totals.rows, 2U);
  EXPECT_EQ(report.host.rows_computed, 2U);
  EXPECT_EQ(report.slots_used, 2U);
}

TEST_F(expert_host_test, another_version_is_compared_on_rows_that_were_asked_for) {
  const auto difference_in = [&](std::uint32_t slot) {
    for (const auto& report : ports->inventories.back()) {
      if (report.slot.value == slot && report.facts) return report.facts->difference;
    }
    return std::optional<compute::output_difference>{};
  };
  hold(0, 5, 10.0F);
  EXPECT_FALSE(difference_in(0)) << "there is nothing to compare it with";
  for (std::uint64_t n = 1; n <= 3; ++n, now += limits::live_row_interval) {
    auto asked = call(n, {1, 2, 3, 4});
    ask(*asked, 5, 1.0F);
    send(serve_call{asked});
    run();
  }
  command_load(1, 5, 1, 2);
  finish_load(1, 5, 12.5F);
  const auto found = difference_in(1);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rows, 3U);
  EXPECT_NEAR(found->mean, 0.25, 1e-6);
  EXPECT_NEAR(found->largest, 0.25, 1e-6);
  EXPECT_FALSE(difference_in(0));
  hold(2, 6, 1.0F);
  EXPECT_FALSE(difference_in(2)) << "another expert";
}

TEST_F(expert_host_test, a_comparison_that_fails_costs_nothing_else) {
  hold(0, 5, 10.0F);
  auto asked = call(1, {1, 2});
  ask(*asked, 5, 1.0F);
  send(serve_call{asked});
  run();
  log->fail_run = []() -> result<void> { return fail(errc::internal, "no"); };
  command_load(1, 5, 1, 2);
  finish_load(1, 5, 12.5F);
  EXPECT_EQ(phase_of(1), slot_report::phase::ready);
}

TEST_F(expert_host_test, calls_that_arrive_while_it_computes_are_merged) {
  hold(0, 5, 10.0F);
  for (std::uint64_t number = 1; number <= 5; ++number) {
    auto asked = call(number, {static_cast<float>(number), 0, 1, 1});
    ask(*asked, 5, 1.0F);
    send(serve_call{asked});
  }
  run();
  EXPECT_EQ(log->batch_rows, (std::vector<std::size_t>{8, 2})) << "5 calls of 2 rows, 8 rows per batch";
  ASSERT_EQ(ports->answers.size(), 5U);
  for (std::size_t index = 0; index < 5; ++index) {
    EXPECT_EQ(output_of(*ports->answers[index])[0], 10.0F * static_cast<float>(index + 1));
  }
}

TEST_F(expert_host_test, rows_of_another_dtype_are_converted_both_ways) {
  hold(0, 5, 3.0F);
  struct bf16_rows {
    std::vector<std::uint16_t> input, output;
  };
  auto rows = std::make_shared<bf16_rows>();
  rows->input = {f32_to_bf16(1.5F), f32_to_bf16(-2.0F)};
  rows->output.resize(2);
  auto asked = call(1, {0, 0});
  asked->type = dtype::bf16;
  asked->input = std::as_bytes(std::span{rows->input}).data();
  asked->output = std::as_writable_bytes(std::span{rows->output}).data();
  asked->storage = rows;
  ask(*asked, 5, 1.0F);
  send(serve_call{asked});
  run();
  EXPECT_EQ(bf16_to_f32(rows->output[0]), 4.5F);
  EXPECT_EQ(bf16_to_f32(rows->output[1]), -6.0F);
}

TEST_F(expert_host_test, w10_says_per_expert_what_it_does_not_hold) {
  hold(0, 5, 10.0F);
  auto partly = call(1, {1, 1});
  ask(*partly, 5, 1.0F);
  ask(*partly, 9, 1.0F);
  ask(*partly, 5, 1.0F, 2);  // a version that is not here
  auto none = call(2, {1, 1});
  ask(*none, 9, 1.0F);
  send(serve_call{partly});
  send(serve_call{none});
  run();
  ASSERT_EQ(ports->answers.size(), 2U);
  EXPECT_FALSE(partly->outcome.failed);
  EXPECT_EQ(partly->outcome.not_held, (std::vector<std::uint32_t>{9, 5}));
  EXPECT_EQ(output_of(*partly), (std::vector<float>{10, 10}));
  ASSERT_TRUE(none->outcome.failed);
  EXPECT_EQ(none->outcome.failed->code, errc::unknown_expert);
  EXPECT_EQ(none->outcome.not_held, (std::vector<std::uint32_t>{9}));
}

TEST_F(expert_host_test, o10_a_passed_deadline_is_answered_without_compute) {
  hold(0, 5, 10.0F);
  auto late = call(1, {1, 1});
  ask(*late, 5, 1.0F);
  auto fine = call(2, {1, 1});
  ask(*fine, 5, 1.0F);
  fine->deadline += std::chrono::hours{1};
  now += std::chrono::seconds{10};
  send(serve_call{late});
  send(serve_call{fine});
  run();
  ASSERT_TRUE(late->outcome.failed);
  EXPECT_EQ(late->outcome.failed->code, errc::timeout);
  EXPECT_FALSE(fine->outcome.failed);
  EXPECT_EQ(log->batch_rows, (std::vector<std::size_t>{1}));
  send(report_statistics{});
  run();
  EXPECT_EQ(ports->reports.back().host.calls_expired, 1U);
}

TEST_F(expert_host_test, a_slot_is_emptied_only_after_the_calls_that_use_it) {
  hold(0, 5, 10.0F);
  auto before = call(1, {1, 1});
  ask(*before, 5, 1.0F);
  auto after = call(2, {1, 1});
  ask(*after, 5, 1.0F);
  send(serve_call{before});
  send(free_slot{{1}, {0}, {{layer, 5}, {1}}});
  send(serve_call{after});
  // One message at a time: the call is queued, the slot is marked, the later call finds it gone; nothing is unloaded.
  for (int messages = 0; messages < 3; ++messages) scheduler.run_once();
  EXPECT_TRUE(ports->unloads.empty());
  run();
  EXPECT_FALSE(before->outcome.failed);
  EXPECT_EQ(output_of(*before), (std::vector<float>{10, 10}));
  ASSERT_TRUE(after->outcome.failed);
  EXPECT_EQ(ports->unloads, (std::vector<slot_index>{{0}}));
  EXPECT_EQ(phase_of(0), slot_report::phase::freeing);
  send(slot_unloaded{{0}});
  run();
  EXPECT_TRUE(ports->inventories.back().empty());
}

TEST_F(expert_host_test, a_transfer_keeps_its_slot_too) {
  hold(0, 5, 10.0F);
  auto pinned = request<pinned_expert>(pin_expert{{{layer, 5}, {1}}});
  ASSERT_EQ(pinned.slot, slot_index{0});
  EXPECT_EQ(pinned.layout->shape.hidden, width);
  send(free_slot{{1}, {0}, {{layer, 5}, {1}}});
  run();
  EXPECT_TRUE(ports->unloads.empty());
  send(unpin_slot{{0}});
  run();
  EXPECT_EQ(ports->unloads.size(), 1U);
  EXPECT_FALSE(request<pinned_expert>(pin_expert{{{layer, 5}, {1}}}).slot);
}

TEST_F(expert_host_test, c4_an_expert_that_fails_its_probe_or_load_is_never_served) {
  probe_outcome = fail(errc::corrupt, "probe differs");
  hold(0, 5, 10.0F);
  EXPECT_EQ(phase_of(0), slot_report::phase::failed);
  EXPECT_EQ(ports->unloads, (std::vector<slot_index>{{0}}));
  command_load(1, 6);
  send(load_failed{{1}, {errc::corrupt, "digest differs"}});
  run();
  EXPECT_EQ(phase_of(1), slot_report::phase::failed);
  auto asked = call(1, {1, 1});
  ask(*asked, 5, 1.0F);
  ask(*asked, 6, 1.0F);
  send(serve_call{asked});
  run();
  EXPECT_EQ(asked->outcome.failed->code, errc::unknown_expert);
  // The same slot may be tried again, and the unload of the failed try does not disturb it.
  probe_outcome = {};
  command_load(0, 5);
  send(slot_unloaded{{0}});
  finish_load(0, 5, 2.0F);
  EXPECT_EQ(phase_of(0), slot_report::phase::ready);
}

TEST_F(expert_host_test, n7_commands_of_an_older_term_are_refused) {
  command_load(0, 5, 7);
  EXPECT_EQ(ports->loads.size(), 1U);
  command_load(1, 6, 6);
  EXPECT_EQ(ports->loads.size(), 1U);
  finish_load(0, 5, 1.0F);
  send(free_slot{{6}, {0}, {{layer, 5}, {1}}});
  run();
  EXPECT_EQ(phase_of(0), slot_report::phase::ready);
}

TEST_F(expert_host_test, repeated_commands_do_nothing_twice_and_report_again) {
  command_load(0, 5);
  command_load(0, 5);
  EXPECT_EQ(ports->loads.size(), 1U);
  EXPECT_EQ(ports->inventories.size(), 2U);
  finish_load(0, 5, 1.0F);
  command_load(0, 6);
  EXPECT_EQ(ports->loads.size(), 1U) << "the slot is taken";
  EXPECT_EQ(phase_of(0), slot_report::phase::ready);
}

TEST_F(expert_host_test, a_failing_device_fails_only_its_batch) {
  hold(0, 5, 10.0F);
  log->fail_run = [] { return fail(errc::out_of_memory, "no scratch"); };
  auto broken = call(1, {1, 1});
  ask(*broken, 5, 1.0F);
  send(serve_call{broken});
  run();
  EXPECT_EQ(broken->outcome.failed->code, errc::out_of_memory);
  log->fail_run = []() -> result<void> { throw std::runtime_error{"thrown"}; };
  auto thrown = call(2, {1, 1});
  ask(*thrown, 5, 1.0F);
  send(serve_call{thrown});
  run();
  EXPECT_EQ(thrown->outcome.failed->code, errc::internal);
  log->fail_run = nullptr;
  auto fine = call(3, {1, 1});
  ask(*fine, 5, 1.0F);
  send(serve_call{fine});
  run();
  EXPECT_FALSE(fine->outcome.failed);
}

TEST_F(expert_host_test, stopping_answers_what_is_queued) {
  hold(0, 5, 10.0F);
  auto asked = call(1, {1, 1});
  ask(*asked, 5, 1.0F);
  send(serve_call{asked});
  scheduler.run_once();  // queued, run_next not handled yet
  EXPECT_TRUE(ports->answers.empty());
  request<host_stopped>(stop_host{});
  ASSERT_EQ(ports->answers.size(), 1U);
  EXPECT_FALSE(asked->outcome.failed);
  host = nullptr;
}

TEST_F(expert_host_test, a_lost_device_refuses_what_waits_and_is_reported_for_ever) {
  hold(0, 5, 10.0F);
  command_load(1, 6);
  log->fail_run = [this]() -> result<void> {
    log->is_lost = true;
    return fail(errc::internal, "an illegal memory access was encountered");
  };
  // One batch holds eight rows: the third call waits while the first two are computed.
  std::vector<call_handle> asked;
  for (std::uint64_t number = 1; number <= 3; ++number) {
    asked.push_back(call(number, {1, 2, 3, 4, 5, 6, 7, 8}));
    ask(*asked.back(), 5, 1.0F);
    send(serve_call{asked.back()});
  }
  run();
  ASSERT_EQ(ports->answers.size(), 3U);
  for (const auto& each : asked) {
    ASSERT_TRUE(each->outcome.failed);
    EXPECT_EQ(each->outcome.failed->code, errc::unavailable);
    EXPECT_NE(each->outcome.failed->message.find("an illegal memory access"), std::string::npos);
  }
  EXPECT_EQ(ports->batches, 1U) << "a lost device is not asked again";
  ASSERT_EQ(ports->losses.size(), 1U);
  EXPECT_NE(ports->losses[0].find("an illegal memory access"), std::string::npos) << ports->losses[0];
  EXPECT_EQ(log->released_on, log->made_on);
  // Whatever comes late finds no device, and breaks nothing.
  send(load_failed{{1}, {errc::unavailable, "the device of this node has been released"}});
  send(slot_unloaded{{0}});
  send(unpin_slot{{0}});
  EXPECT_FALSE(request<pinned_expert>(pin_expert{{{layer, 5}, weights_version{1}}}).slot);
  EXPECT_FALSE(started->memory->load({2}, {}, {}));
  auto late = call(4, {1, 2});
  ask(*late, 5, 1.0F);
  send(serve_call{late});
  send(report_inventory{});
  run();
  ASSERT_TRUE(late->outcome.failed);
  EXPECT_EQ(late->outcome.failed->message, asked[0]->outcome.failed->message);
  EXPECT_EQ(ports->losses.size(), 2U);
}

TEST_F(expert_host_test, a_device_that_is_lost_while_loading_is_given_up) {
  command_load(0, 5);
  log->is_lost = true;
  send(load_failed{{0}, {errc::internal, "unspecified launch failure"}});
  run();
  ASSERT_EQ(ports->losses.size(), 1U);
  EXPECT_NE(ports->losses[0].find("unspecified launch failure"), std::string::npos) << ports->losses[0];
}

TEST_F(expert_host_test, a_batch_that_fails_on_a_sound_device_costs_nothing_else) {
  hold(0, 5, 10.0F);
  log->fail_run = [] { return result<void>{fail(errc::out_of_memory, "no room for the batch")}; };
  auto asked = call(1, {1, 2});
  ask(*asked, 5, 1.0F);
  send(serve_call{asked});
  run();
  ASSERT_TRUE(asked->outcome.failed);
  EXPECT_EQ(asked->outcome.failed->code, errc::out_of_memory);
  log->fail_run = nullptr;
  auto again = call(2, {1, 2});
  ask(*again, 5, 1.0F);
  send(serve_call{again});
  run();
  EXPECT_FALSE(again->outcome.failed);
  EXPECT_TRUE(ports->losses.empty());
}

}  // namespace
}  // namespace troupe::expert
