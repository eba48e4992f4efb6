// The router's thread over real ipc sockets: fake expert hosts that misbehave, a client that does too.
#include <chrono>
#include <cstring>
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/router_node/router_fixture.hpp"

namespace troupe::router::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class router_over_sockets : public router_test {
 protected:
  // Three hosts, every expert on two of them.
  void start_three(const std::string& family = "mixtral", bool maps_memory = true) {
    start(family);
    for (const auto* name : {"expert-0", "expert-1", "expert-2"}) add_host(name, 1, maps_memory);
    publish({{"expert-0", "expert-1"}, {"expert-1", "expert-2"}, {"expert-2", "expert-0"}});
    await_links(3);
  }

  void expect_exact(const client_reply& reply, const std::vector<float>& rows, std::uint32_t width) {
    ASSERT_TRUE(reply.envelope.has_layer()) << reply.envelope.ShortDebugString();
    const auto wanted = expected(reply, rows, width);
    ASSERT_EQ(reply.routed.size(), wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(reply.routed[i], wanted[i], 1e-3) << i;
    EXPECT_THAT(reply.flags, Each(0));
  }

  proto::Error failure(const client_reply& reply) {
    EXPECT_TRUE(reply.envelope.has_failure()) << reply.envelope.ShortDebugString();
    return reply.envelope.failure().error();
  }
};

TEST_F(router_over_sockets, serves_rows_through_shared_memory) {
  start_three();
  for (const std::uint32_t rows : {1U, 7U, 300U}) {
    const auto x = make_rows(rows);
    const auto id = client_->send_layer(layer_name(), x, layer().hidden);
    const auto reply = client_->receive();
    expect_exact(reply, x, layer().hidden);
    EXPECT_EQ(reply.envelope.layer().request_id(), id);
    EXPECT_EQ(reply.envelope.layer().epoch(), 1U);
    EXPECT_EQ(reply.output, reply.routed);
  }
  std::uint64_t shared = 0;
  for (const auto& [name, host] : hosts_) shared += host->shared_calls();
  EXPECT_GT(shared, 0U);
}

TEST_F(router_over_sockets, serves_rows_as_parts_where_memory_is_not_shared) {
  start_three("mixtral", false);
  const auto x = make_rows(20);
  client_->send_layer(layer_name(), x, layer().hidden);
  expect_exact(client_->receive(), x, layer().hidden);
  for (const auto& [name, host] : hosts_) EXPECT_EQ(host->shared_calls(), 0U);
}

TEST_F(router_over_sockets, adds_shared_experts_to_the_output_only) {
  start_three("qwen2_moe");
  const auto x = make_rows(5);
  client_->send_layer(layer_name(), x, layer().hidden);
  const auto reply = client_->receive();
  expect_exact(reply, x, layer().hidden);
  EXPECT_NE(reply.output, reply.routed);
}

TEST_F(router_over_sockets, answers_in_the_requests_dtype) {
  start_three();
  for (const auto type : {dtype::bf16, dtype::f16}) {
    client_->send_layer(layer_name(), make_rows(3), layer().hidden, {}, type);
    const auto reply = client_->receive();
    EXPECT_EQ(reply.envelope.layer().output().dtype(), static_cast<proto::DType>(type));
    EXPECT_EQ(reply.routed.size(), 3 * layer().hidden);
  }
}

TEST_F(router_over_sockets, rows_travel_in_the_clusters_dtype) {
  start("mixtral", dtype::bf16);
  add_host("expert-0");
  publish({{"expert-0"}});
  await_links(1);
  const auto x = make_rows(4);
  client_->send_layer(layer_name(), x, layer().hidden);
  const auto reply = client_->receive();
  const auto wanted = expected(reply, x, layer().hidden);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_NEAR(reply.routed[i], wanted[i], 0.01 * std::abs(wanted[i]) + 0.01);
  }
}

TEST_F(router_over_sockets, experts_request_is_the_weighted_sum) {
  start_three("qwen2_moe");
  const auto x = make_rows(2);
  client_->send_experts(layer_name(), x, layer().hidden, {0, 2, -1, 1}, {2, 1, 9, 0.5F});
  const auto reply = client_->receive();
  ASSERT_TRUE(reply.envelope.has_layer()) << reply.envelope.ShortDebugString();
  EXPECT_EQ(reply.output, reply.routed) << "no shared expert: the caller asked for the sum";
  for (std::uint32_t c = 0; c < layer().hidden; ++c) {
    EXPECT_EQ(reply.output[c], 5 * x[c]);
    EXPECT_EQ(reply.output[layer().hidden + c], x[layer().hidden + c]);
  }
}

TEST_F(router_over_sockets, p1_a_killed_host_costs_nothing_but_a_retry) {
  start_three();
  hosts_.at("expert-1")->behave(manner::silent);
  const auto x = make_rows(64);
  client_->send_layer(layer_name(), x, layer().hidden);
  await([&] { return hosts_.at("expert-1")->calls_received() > 0; }, "the silent host has its call");
  EXPECT_TRUE(client_->is_quiet(20ms));
  const auto killed = std::chrono::steady_clock::now();
  kill_host("expert-1");
  expect_exact(client_->receive(), x, layer().hidden);
  EXPECT_LT(std::chrono::steady_clock::now() - killed, 1s) << "the lost connection is noticed at once";
}

TEST_F(router_over_sockets, p2_w13_a_frozen_host_is_passed_over_and_its_late_answer_dropped) {
  start_three();
  auto& frozen = *hosts_.at("expert-1");
  frozen.behave(manner::silent);
  const auto x = make_rows(64);
  client_->send_layer(layer_name(), x, layer().hidden);
  expect_exact(client_->receive(), x, layer().hidden);
  const auto calls = frozen.calls_received();
  ASSERT_GT(calls, 0U);
  frozen.behave(manner::honest);
  await([&] { return frozen.answers_sent() == calls; }, "the late answers are sent");
  client_->send_layer(layer_name(), x, layer().hidden);
  expect_exact(client_->receive(), x, layer().hidden);
  await([&] { return metrics_text().find("moe_answers_discarded_total{reason=\"late\"} 0") == std::string::npos; },
        "the late answer is counted");
}

TEST_F(router_over_sockets, w13_double_and_foreign_answers_change_nothing) {
  start_three();
  for (auto& [name, host] : hosts_) host->behave(manner::doubling);
  for (int i = 0; i < 20; ++i) {
    const auto x = make_rows(9);
    client_->send_layer(layer_name(), x, layer().hidden);
    expect_exact(client_->receive(), x, layer().hidden);
  }
  EXPECT_TRUE(client_->is_quiet(10ms)) << "one answer per request";
}

TEST_F(router_over_sockets, refusing_lying_and_empty_hosts_are_worked_around) {
  for (const auto how : {manner::refusing, manner::lying, manner::not_holding}) {
    if (!loop_) start_three();
    hosts_.at("expert-2")->behave(how);
    const auto x = make_rows(32);
    client_->send_layer(layer_name(), x, layer().hidden);
    expect_exact(client_->receive(), x, layer().hidden);
  }
}

TEST_F(router_over_sockets, p11_a_restarted_host_is_used_under_its_new_incarnation) {
  start("mixtral");
  add_host("expert-0", 1);
  publish({{"expert-0"}});
  await_links(1);
  kill_host("expert-0");
  await_links(0);
  const auto x = make_rows(2);
  client_->send_layer(layer_name(), x, layer().hidden);
  add_host("expert-0", 2);
  await_links(1);
  EXPECT_TRUE(client_->is_quiet(50ms)) << "the map does not know the new incarnation yet";
  publish({{"expert-0"}});
  expect_exact(client_->receive(), x, layer().hidden);
}

TEST_F(router_over_sockets, p7_waits_for_a_replica_or_fails_at_once) {
  start("mixtral");
  add_host("expert-0");
  publish({{}});
  await_links(1);
  const auto x = make_rows(1);
  client_->send_layer(layer_name(), x, layer().hidden, [](auto& r) { r.set_degrade(proto::FAIL); });
  auto refused = failure(client_->receive());
  EXPECT_EQ(refused.code(), proto::UNAVAILABLE);
  EXPECT_THAT(refused.message(), HasSubstr("no replica of expert " + layer_name() + "/"));
  client_->send_layer(layer_name(), x, layer().hidden, [](auto& r) { r.set_timeout_ms(50); });
  EXPECT_EQ(failure(client_->receive()).code(), proto::TIMEOUT);
  client_->send_layer(layer_name(), x, layer().hidden);
  EXPECT_TRUE(client_->is_quiet(20ms));
  publish({{"expert-0"}});
  expect_exact(client_->receive(), x, layer().hidden);
}

TEST_F(router_over_sockets, substitutes_and_renormalises_with_flags) {
  start("mixtral");
  add_host("expert-0");
  publish({{"expert-0"}, {}});  // odd experts have no replica
  await_links(1);
  const auto x = make_rows(16);
  client_->send_layer(layer_name(), x, layer().hidden, [](auto& r) { r.set_degrade(proto::SUBSTITUTE); });
  const auto substituted = client_->receive();
  ASSERT_TRUE(substituted.envelope.has_layer()) << substituted.envelope.ShortDebugString();
  const auto wanted = expected(substituted, x, layer().hidden);
  for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(substituted.routed[i], wanted[i], 1e-3);
  for (const auto id : substituted.ids) EXPECT_EQ(id % 2, 0);
  EXPECT_THAT(substituted.flags, ::testing::Contains(1));
  client_->send_experts(layer_name(), x, layer().hidden, std::vector<std::int32_t>(16 * 2, 0),
                        std::vector<float>(16 * 2, 1), [](auto& r) { r.set_degrade(proto::SUBSTITUTE); });
  EXPECT_THAT(failure(client_->receive()).message(), HasSubstr("the caller chose"));
  std::vector<std::int32_t> half;
  for (int i = 0; i < 16; ++i) half.insert(half.end(), {0, 1});
  client_->send_experts(layer_name(), x, layer().hidden, half, std::vector<float>(32, 0.5F),
                        [](auto& r) { r.set_degrade(proto::RENORMALISE); });
  const auto renormalised = client_->receive();
  EXPECT_THAT(renormalised.flags, AllOf(SizeIs(16), Each(2)));
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_FLOAT_EQ(renormalised.output[i], x[i]);
}

TEST_F(router_over_sockets, w12_a_repeated_request_is_not_executed_again) {
  start_three();
  const auto x = make_rows(4);
  auto& slow = *hosts_.at("expert-0");
  auto& slow_too = *hosts_.at("expert-1");
  auto& slow_three = *hosts_.at("expert-2");
  for (auto* host : {&slow, &slow_too, &slow_three}) host->behave(manner::silent);
  const auto set_id = [](auto& r) { r.set_request_id(777); };
  client_->send_layer(layer_name(), x, layer().hidden, set_id);
  client_->send_layer(layer_name(), x, layer().hidden, set_id);
  const auto twin = client_->receive();
  EXPECT_EQ(failure(twin).code(), proto::IN_PROGRESS);
  EXPECT_EQ(twin.envelope.failure().request_id(), 777U);
  for (auto* host : {&slow, &slow_too, &slow_three}) host->behave(manner::honest);
  const auto first = client_->receive();
  expect_exact(first, x, layer().hidden);
  const auto calls = slow.calls_received() + slow_too.calls_received() + slow_three.calls_received();
  client_->send_layer(layer_name(), make_rows(1), layer().hidden, set_id);
  const auto again = client_->receive();
  EXPECT_EQ(again.output, first.output);
  EXPECT_EQ(slow.calls_received() + slow_too.calls_received() + slow_three.calls_received(), calls);
}

TEST_F(router_over_sockets, malformed_requests_get_clear_errors) {
  start_three();
  const auto x = make_rows(2);
  const auto width = layer().hidden;
  const auto message_of = [&] { return failure(client_->receive()).message(); };
  client_->send_layer("99", x, width);
  EXPECT_THAT(message_of(), AllOf(HasSubstr("no MoE layer '99'"), HasSubstr(layer_name())));
  client_->send_layer(layer_name(), std::vector<float>(3 * (width + 1)), width + 1);
  EXPECT_THAT(message_of(), AllOf(HasSubstr(std::to_string(width)), HasSubstr(std::to_string(width + 1))));
  auto poisoned = make_rows(3);
  poisoned[width + 4] = std::numeric_limits<float>::quiet_NaN();
  client_->send_layer(layer_name(), poisoned, width);
  EXPECT_THAT(message_of(), HasSubstr("row 1 holds NaN"));  // W9
  client_->send_layer(layer_name(), x, width, [](auto& r) { r.mutable_hidden()->set_shape(0, 3); });
  EXPECT_THAT(message_of(), HasSubstr("hidden"));  // W7
  client_->send_layer(layer_name(), x, width, [](auto& r) { r.mutable_hidden()->set_part(5); });
  EXPECT_THAT(message_of(), HasSubstr("hidden"));
  client_->send_experts(layer_name(), x, width, {0, 1'000'000}, {1, 1});
  EXPECT_THAT(message_of(), HasSubstr("row 1 names 1000000"));  // W10
  client_->send_experts(layer_name(), x, width, {0, 1}, {1, std::numeric_limits<float>::infinity()});
  EXPECT_THAT(message_of(), HasSubstr("expert_weights: row 1"));
  client_->send_layer(layer_name(), x, width);
  expect_exact(client_->receive(), x, width);
}

TEST_F(router_over_sockets, w5_garbage_is_answered_and_survived) {
  start_three();
  wire::socket raw = must(wire::socket::open(context_, wire::socket_kind::dealer));
  ASSERT_TRUE(raw.connect(client_address_));
  for (int i = 0; i < 50; ++i) {
    auto part = wire::frame::copy_of(std::string(static_cast<std::size_t>(i * 7), static_cast<char>('a' + i)));
    while (zmq_msg_send(part.handle(), raw.handle(), ZMQ_DONTWAIT) < 0) std::this_thread::yield();
  }
  const auto x = make_rows(2);
  client_->send_layer(layer_name(), x, layer().hidden);
  expect_exact(client_->receive(), x, layer().hidden);
}

TEST_F(router_over_sockets, the_handshake_is_needed_and_checked) {
  start_three();
  test_client stranger(context_, client_address_);
  proto::ClientToRouter envelope;
  envelope.mutable_info()->set_kind(proto::MODEL);
  stranger.send(envelope);
  EXPECT_EQ(failure(stranger.receive()).code(), proto::HANDSHAKE_REQUIRED);
  proto::ClientToRouter hello;
  hello.mutable_hello()->set_wire_major(9);
  stranger.send(hello);
  EXPECT_THAT(failure(stranger.receive()).message(), HasSubstr("9.x"));  // W11
  hello.mutable_hello()->set_wire_major(limits::wire_version_major);
  hello.mutable_hello()->set_cluster_id("another");
  stranger.send(hello);
  EXPECT_EQ(failure(stranger.receive()).code(), proto::WRONG_CLUSTER);  // P11
  const auto welcome = stranger.say_hello();
  EXPECT_EQ(welcome.cluster_id(), "test");
  EXPECT_EQ(welcome.tensor_bytes_max(), limits::tensor_bytes_max);
}

TEST_F(router_over_sockets, a10_questions_go_to_the_coordinator_and_fall_back_on_the_map) {
  start("mixtral");
  add_host("expert-0");
  proto::ClientToRouter envelope;
  envelope.mutable_info()->set_kind(proto::STATUS);
  client_->send(envelope);
  EXPECT_THAT(failure(client_->receive()).message(), HasSubstr("lost since"));
  publish({{"expert-0"}});
  client_->send(envelope);
  EXPECT_THAT(client_->receive().envelope.info().json(),
              AllOf(HasSubstr("\"reasons\":[\"coordinator lost since"), HasSubstr("\"epoch\":1"),
                    HasSubstr("\"name\":\"coordinator\",\"role\":\"coordinator\",\"state\":\"lost\""),
                    HasSubstr("\"name\":\"expert-0\",\"role\":\"expert\",\"state\":\"serving\"")));
  envelope.mutable_info()->set_kind(proto::EXPERTS);
  envelope.mutable_info()->set_layer("77");
  client_->send(envelope);
  EXPECT_EQ(failure(client_->receive()).code(), proto::NOT_FOUND);
  envelope.mutable_info()->set_layer(layer_name());
  client_->send(envelope);
  EXPECT_THAT(client_->receive().envelope.info().json(), HasSubstr("\"node\":\"expert-0\""));
  envelope.mutable_info()->set_kind(proto::MODEL);
  client_->send(envelope);
  EXPECT_THAT(client_->receive().envelope.info().json(), HasSubstr("\"family\":\"mixtral\""));
  coordinator_ = [this](std::uint64_t id, info_kind, const std::string&) -> result<void> {
    loop_->on_coordinator_reply(id, std::string("{\"from\":\"coordinator\"}"));
    return {};
  };
  envelope.mutable_info()->set_kind(proto::NODES);
  client_->send(envelope);
  EXPECT_EQ(client_->receive().envelope.info().json(), "{\"from\":\"coordinator\"}");
}

TEST_F(router_over_sockets, stopping_refuses_new_requests_and_ends_the_old) {
  start("mixtral");
  add_host("expert-0").behave(manner::silent);
  publish({{"expert-0"}});
  await_links(1);
  const auto x = make_rows(1);
  client_->send_layer(layer_name(), x, layer().hidden);
  await([&] { return hosts_.at("expert-0")->calls_received() == 1; }, "the call is with the host");
  loop_->stop(30s);
  // The loop's orders are one queue, and the client's socket is another: once this is refused the stop is in force.
  std::promise<layer_outcome> refused;
  layer_job late;
  late.done = [&refused](layer_outcome outcome) { refused.set_value(std::move(outcome)); };
  ASSERT_TRUE(loop_->submit(std::move(late)));
  EXPECT_THAT(refused.get_future().get().error().message, HasSubstr("stopping"));
  client_->send_layer(layer_name(), x, layer().hidden);
  EXPECT_THAT(failure(client_->receive()).message(), HasSubstr("stopping"));
  hosts_.at("expert-0")->behave(manner::honest);
  expect_exact(client_->receive(), x, layer().hidden);
}

TEST_F(router_over_sockets, metrics_tell_what_happened) {
  start_three();
  const auto x = make_rows(8);
  client_->send_layer(layer_name(), x, layer().hidden);
  client_->receive();
  const auto text = metrics_text();
  EXPECT_THAT(text, HasSubstr("moe_tokens_total{outcome=\"exact\"} 8"));
  EXPECT_THAT(text, HasSubstr("moe_placement_epoch 1"));
  EXPECT_THAT(text, HasSubstr("moe_expert_replicas{layer=\"" + layer_name() + "\",expert=\"0\"} 2"));
  EXPECT_THAT(text, HasSubstr("moe_expert_state{layer=\"" + layer_name() + "\",expert=\"0\",state=\"active\"} 1"));
  EXPECT_THAT(text, HasSubstr("moe_expert_latency_seconds_bucket{layer=\"" + layer_name() + "\",le=\"0.001\"}"));
  await([&] { return metrics_text().find("moe_dispatch_bytes_total{direction=\"out\"} 0") == std::string::npos; },
        "bytes are counted");
}

}  // namespace
}  // namespace troupe::router::testing
