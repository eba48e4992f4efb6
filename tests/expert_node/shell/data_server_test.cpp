// The data server over a real ipc socket, with a router and an expert host that the test plays.
#include "expert_node/shell/data_server.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

#include <gtest/gtest.h>

#include "common/wire/framing.hpp"
#include "common/wire/shared_memory.hpp"
#include "expert_node/shell/layer_catalog.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "model/description.hpp"
#include "proto/router_expert.pb.h"
#include "tests/common/wire_fixture.hpp"

namespace troupe::expert {
namespace {

using wire::eventually;
using wire::must;
using wire::receive_within;

constexpr std::uint32_t width = 4;
constexpr layer_id layer = layer_id::of(3);

// A call of two rows for experts 5 (both rows) and 6 (row 1). Tests change what they are about.
struct sample_call {
  std::uint64_t request{1};
  std::uint32_t attempt{};
  std::uint32_t layer_number{layer.value};
  std::uint64_t timeout_ms{10'000};
  dtype hidden_type{dtype::f32};
  std::vector<std::uint64_t> hidden_shape{2, width};
  std::vector<float> hidden{1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<std::pair<std::uint32_t, std::uint32_t>> experts{{5, 2}, {6, 1}};  // index, assignments
  std::vector<std::int32_t> rows{0, 1, 1};
  std::vector<float> weights{0.5F, 0.25F, 1.0F};
};

class data_server_test : public ::testing::Test {
 protected:
  void SetUp() override { start(false, {}); }

  void start(bool reject_nonfinite, ledger_limits bounds) {
    server.reset();
    model::bundle_layout layout;
    layout.id = {layer, 0};
    layout.shape.hidden = width;
    layers->learn(layout);
    data_server_settings settings;
    settings.context = context;
    settings.address = folder.ipc(std::to_string(++starts) + ".data.ipc");
    settings.identity = identity;
    settings.layers = layers;
    settings.submit = [this](call_handle call) {
      std::lock_guard lock{mutex};
      submitted.push_back(std::move(call));
    };
    settings.reject_nonfinite = reject_nonfinite;
    settings.bounds = bounds;
    server = must(data_server::start(std::move(settings)));
    router.emplace(connect());
  }

  wire::socket connect() {
    auto socket = must(wire::socket::open(context, wire::socket_kind::dealer));
    must(socket.connect(server->address()));
    return socket;
  }

  proto::RouterToExpert hello(std::string cluster = "cluster-1", std::uint64_t incarnation = 9) {
    proto::RouterToExpert envelope;
    auto& said = *envelope.mutable_hello();
    said.set_wire_major(limits::wire_version_major);
    said.set_cluster_id(std::move(cluster));
    said.set_node("router-0");
    said.set_incarnation(incarnation);
    return envelope;
  }

  proto::ExpertToRouter receive(wire::socket& from) {
    proto::ExpertToRouter envelope;
    last = receive_within(from);
    EXPECT_TRUE(last) << "no answer";
    if (last) must(must(std::move(last->message)).parse(envelope));
    return envelope;
  }

  void greet() {
    wire::send_when_connected(*router, hello());
    ASSERT_TRUE(receive(*router).has_welcome());
  }

  void send(const sample_call& call, wire::socket* from = nullptr) {
    proto::RouterToExpert envelope;
    auto& run = *envelope.mutable_run();
    run.set_request_id(call.request);
    run.set_attempt(call.attempt);
    run.set_layer(call.layer_number);
    run.set_timeout_ms(call.timeout_ms);
    for (auto [index, assignments] : call.experts) {
      auto& wanted = *run.add_experts();
      wanted.set_expert(index);
      wanted.set_version(1);
      wanted.set_assignments(assignments);
    }
    wire::outgoing_message message;
    std::vector<std::byte> hidden(call.hidden.size() * bytes_per_element(call.hidden_type));
    convert(dtype::f32, std::as_bytes(std::span{call.hidden}).data(),
            call.hidden_type == dtype::i32 ? dtype::f32 : call.hidden_type, hidden.data(), call.hidden.size());
    must(message.attach(*run.mutable_hidden(), call.hidden_type, call.hidden_shape, hidden));
    const std::array<std::uint64_t, 1> rows{call.rows.size()};
    must(message.attach(*run.mutable_row_index(), dtype::i32, rows, std::as_bytes(std::span{call.rows})));
    const std::array<std::uint64_t, 1> weights{call.weights.size()};
    must(message.attach(*run.mutable_gate_weight(), dtype::f32, weights, std::as_bytes(std::span{call.weights})));
    must(message.send(from == nullptr ? *router : *from, envelope));
  }

  // The call that reached the host, or nullptr.
  call_handle wait_for_call() {
    call_handle call;
    EXPECT_TRUE(eventually([&] {
      std::lock_guard lock{mutex};
      if (submitted.empty()) return false;
      call = submitted.front();
      submitted.erase(submitted.begin());
      return true;
    }));
    return call;
  }

  // What the host would do: here the output is twice the input, whatever the experts.
  void compute(const call_handle& call) {
    for (std::size_t index = 0; index < call->tensor_bytes() / sizeof(float); ++index) {
      float value = 0;
      std::memcpy(&value, call->input + index * sizeof value, sizeof value);
      value *= 2;
      std::memcpy(call->output + index * sizeof value, &value, sizeof value);
    }
    server->answer(call);
  }

  // Sends, expects a refusal that reaches no host, returns it.
  proto::Error refusal(const sample_call& call) {
    send(call);
    auto answer = receive(*router);
    EXPECT_TRUE(answer.done().has_error()) << answer.ShortDebugString();
    EXPECT_EQ(answer.done().request_id(), call.request);
    std::lock_guard lock{mutex};
    EXPECT_TRUE(submitted.empty());
    return answer.done().error();
  }

  void expect_refused(const sample_call& call, std::initializer_list<const char*> words,
                      proto::ErrorCode code = proto::INVALID_REQUEST) {
    auto reason = refusal(call);
    EXPECT_EQ(reason.code(), code) << reason.message();
    for (const char* word : words) EXPECT_NE(reason.message().find(word), std::string::npos) << reason.message();
  }

  void expect_handshake_required() {
    send({});
    EXPECT_EQ(receive(*router).refused().code(), proto::HANDSHAKE_REQUIRED);
    std::lock_guard lock{mutex};
    EXPECT_TRUE(submitted.empty());
  }

  wire::temporary_folder folder;
  std::shared_ptr<wire::context> context = must(wire::context::make());
  std::shared_ptr<node_identity> identity =
      std::make_shared<node_identity>(node_id{"expert-0"}, "cluster-1", incarnation_number{77});
  std::shared_ptr<layer_catalog> layers = std::make_shared<layer_catalog>(nullptr);
  int starts{};
  std::mutex mutex;
  std::vector<call_handle> submitted;  // guarded by mutex
  std::unique_ptr<data_server> server;
  std::optional<wire::socket> router;
  std::optional<wire::received> last;
};

TEST_F(data_server_test, serves_a_call_from_parts) {
  greet();
  identity->set_epoch({41});
  send({});
  auto call = wait_for_call();
  EXPECT_EQ(call->rows, 2U);
  EXPECT_EQ(call->layer, layer);
  ASSERT_EQ(call->experts.size(), 2U);
  EXPECT_EQ(call->experts[0].index, 5U);
  EXPECT_EQ(call->row_index, (std::vector<std::uint32_t>{0, 1, 1}));
  EXPECT_EQ(call->gate_weight, (std::vector<float>{0.5F, 0.25F, 1.0F}));
  call->outcome.not_held = {6};
  compute(call);
  auto got = receive_within(*router);
  ASSERT_TRUE(got);
  auto message = must(std::move(got->message));
  proto::ExpertToRouter answer;
  must(message.parse(answer));
  EXPECT_EQ(answer.done().incarnation(), 77U);
  EXPECT_EQ(answer.done().epoch(), 41U);
  EXPECT_EQ(answer.done().not_held(0), 6U);
  auto output = must(message.tensor(answer.done().output(), "output"));
  float first = 0;
  std::memcpy(&first, output.bytes.data(), sizeof first);
  EXPECT_EQ(first, 2.0F);
  EXPECT_EQ(output.shape, (std::vector<std::uint64_t>{2, width}));
}

TEST_F(data_server_test, rows_and_answer_travel_in_shared_memory) {
  auto segment = must(wire::shared_segment::create("cluster-1", 4096));
  auto greeting = hello();
  auto& offer = *greeting.mutable_hello()->mutable_segment();
  offer.set_name(segment.name());
  offer.set_bytes(segment.bytes().size());
  offer.set_machine_id(wire::machine_id());
  wire::send_when_connected(*router, greeting);
  ASSERT_TRUE(receive(*router).welcome().segment_mapped());
  segment.unlink();

  const std::vector<float> hidden{1, 2, 3, 4};
  std::memcpy(segment.bytes().data() + 64, hidden.data(), 16);
  const std::int32_t row = 0;
  std::memcpy(segment.bytes().data() + 128, &row, sizeof row);
  const float weight = 1.0F;
  std::memcpy(segment.bytes().data() + 192, &weight, sizeof weight);
  proto::RouterToExpert envelope;
  auto& run = *envelope.mutable_run();
  run.set_request_id(5);
  run.set_layer(layer.value);
  run.set_timeout_ms(10'000);
  auto& wanted = *run.add_experts();
  wanted.set_expert(5);
  wanted.set_version(1);
  wanted.set_assignments(1);
  const std::array<std::uint64_t, 2> shape{1, width};
  const std::array<std::uint64_t, 1> one{1};
  wire::describe_shared(*run.mutable_hidden(), dtype::f32, shape, 64, 16);
  wire::describe_shared(*run.mutable_row_index(), dtype::i32, one, 128, 4);
  wire::describe_shared(*run.mutable_gate_weight(), dtype::f32, one, 192, 4);
  run.mutable_output()->set_offset(256);
  run.mutable_output()->set_bytes(16);
  must(wire::outgoing_message{}.send(*router, envelope));
  compute(wait_for_call());
  auto answer = receive(*router);
  ASSERT_TRUE(answer.done().output().has_shared()) << answer.ShortDebugString();
  EXPECT_EQ(answer.done().output().shared().offset(), 256U);
  float first = 0;
  std::memcpy(&first, segment.bytes().data() + 256, sizeof first);
  EXPECT_EQ(first, 2.0F);

  // Ranges that leave the segment, overflow, are not aligned, have other sizes, or cover the input.
  for (auto [offset, bytes] : std::initializer_list<std::pair<std::uint64_t, std::uint64_t>>{
           {4088, 16}, {~0ULL - 7, 16}, {260, 16}, {256, 12}, {72, 16}}) {
    run.set_request_id(run.request_id() + 1);
    run.mutable_output()->set_offset(offset);
    run.mutable_output()->set_bytes(bytes);
    must(wire::outgoing_message{}.send(*router, envelope));
    auto refused = receive(*router);
    EXPECT_EQ(refused.done().error().code(), proto::INVALID_REQUEST) << offset << " + " << bytes;
  }
}

TEST_F(data_server_test, w7_shapes_that_do_not_fit_are_refused_with_their_numbers) {
  greet();
  expect_refused({.hidden_shape = {2, 2}, .hidden = {1, 2, 3, 4}}, {"[2, 2]", "[rows, 4]"});
  expect_refused({.hidden_shape = {2, width, 1}}, {"[2, 4, 1]"});
  expect_refused({.rows = {0, 1}}, {"row_index", "[2]", "3 assignments"});
  expect_refused({.weights = {1.0F}}, {"gate_weight", "[1]"});
  expect_refused({.rows = {0, 1, 2}}, {"row_index[2]", "2 rows"});
  expect_refused({.rows = {0, -1, 1}}, {"row_index[1]", "-1"});
  expect_refused({.rows = {1, 1, 0}}, {"row 1", "expert 5 twice"});
  expect_refused({.experts = {}}, {"experts"});
  expect_refused({.experts = {{5, 2}, {5, 1}}}, {"experts[1]", "twice"});
  expect_refused({.experts = {{5, 3}, {6, 0}}}, {"experts[1].assignments"});
  EXPECT_EQ(server->counters().calls_invalid.value(), 10);
}

TEST_F(data_server_test, w8_other_dtypes_are_refused_naming_the_supported_ones) {
  greet();
  expect_refused({.hidden_type = dtype::f16}, {"F16", "F32 or BF16"});
  expect_refused({.hidden_type = dtype::i32}, {"I32", "F32 or BF16"});
  send({.hidden_type = dtype::bf16});
  EXPECT_EQ(wait_for_call()->type, dtype::bf16);
}

TEST_F(data_server_test, w9_rows_that_are_not_finite_propagate_unless_told_to_reject) {
  greet();
  sample_call poisoned;
  poisoned.hidden[6] = std::numeric_limits<float>::quiet_NaN();
  send(poisoned);
  EXPECT_TRUE(std::isnan(reinterpret_cast<const float*>(wait_for_call()->input)[6]));
  start(true, {});
  greet();
  expect_refused(poisoned, {"row 1", "NaN"});
  poisoned.hidden_type = dtype::bf16;
  poisoned.hidden[6] = 0;
  poisoned.hidden[1] = std::numeric_limits<float>::infinity();
  expect_refused(poisoned, {"row 0"});
  sample_call bad_weight;
  bad_weight.weights[2] = std::numeric_limits<float>::infinity();
  expect_refused(bad_weight, {"gate_weight[2]"});
}

TEST_F(data_server_test, w10_a_layer_without_experts_here_is_answered_expert_by_expert) {
  greet();
  send({.layer_number = 99});
  auto answer = receive(*router);
  EXPECT_EQ(answer.done().error().code(), proto::UNKNOWN_EXPERT);
  EXPECT_EQ(answer.done().not_held_size(), 2);
}

TEST_F(data_server_test, w12_a_repeated_call_is_never_computed_twice) {
  greet();
  send({});
  auto call = wait_for_call();
  expect_refused({}, {"being executed"}, proto::IN_PROGRESS);
  compute(call);
  EXPECT_FALSE(receive(*router).done().has_error());
  expect_refused({}, {"answered already"}, proto::CONFLICT);
  send({.attempt = 1});
  EXPECT_NE(wait_for_call(), nullptr);
  EXPECT_EQ(server->counters().calls_repeated.value(), 2);
}

TEST_F(data_server_test, w12_a_router_that_connects_again_is_recognised) {
  greet();
  send({});
  auto call = wait_for_call();
  router.emplace(connect());
  greet();
  expect_refused({}, {"being executed"}, proto::IN_PROGRESS);
  // The old link's call is void: its answer is dropped, and nothing of it reaches the new link.
  compute(call);
  ASSERT_TRUE(eventually([&] { return server->counters().answers_dropped.value() == 1; }));
  send({.request = 2});
  compute(wait_for_call());
  EXPECT_EQ(receive(*router).done().request_id(), 2U);
}

TEST_F(data_server_test, w13_an_answer_nobody_waits_for_is_dropped_and_counted) {
  greet();
  send({});
  auto call = wait_for_call();
  router.reset();  // the router dies
  router.emplace(connect());
  ASSERT_TRUE(eventually([&] {
    server->answer(call);
    return server->counters().answers_dropped.value() > 0;
  }));
  greet();
  send({.request = 2});
  EXPECT_EQ(wait_for_call()->id.request.value, 2U);
}

TEST_F(data_server_test, o1_past_its_bound_it_refuses_at_once) {
  start(false, {.rows_max = 3});
  greet();
  send({});
  auto call = wait_for_call();
  expect_refused({.request = 2}, {"limits of", "retry"}, proto::OVERLOADED);
}

TEST_F(data_server_test, o10_a_call_without_time_left_is_answered_and_counted) {
  greet();
  expect_refused({.timeout_ms = 0}, {"deadline"}, proto::TIMEOUT);
  EXPECT_EQ(server->counters().calls_expired.value(), 1);
}

TEST_F(data_server_test, nothing_is_done_before_the_handshake) {
  wire::send_when_connected(*router, hello("other-cluster"));
  auto refused = receive(*router);
  EXPECT_EQ(refused.refused().code(), proto::WRONG_CLUSTER);
  EXPECT_NE(refused.refused().message().find("cluster-1"), std::string::npos);
  expect_handshake_required();
  greet();
  send({});
  EXPECT_NE(wait_for_call(), nullptr);
}

TEST_F(data_server_test, w11_another_wire_version_is_refused) {
  auto greeting = hello();
  greeting.mutable_hello()->set_wire_major(limits::wire_version_major + 1);
  wire::send_when_connected(*router, greeting);
  EXPECT_EQ(receive(*router).refused().code(), proto::WRONG_VERSION);
}

TEST_F(data_server_test, draining_finishes_the_old_and_refuses_the_new) {
  greet();
  send({});
  auto call = wait_for_call();
  EXPECT_FALSE(server->drain(std::chrono::milliseconds{1}));
  expect_refused({.request = 2}, {"stopping"}, proto::UNAVAILABLE);
  compute(call);
  EXPECT_TRUE(server->drain(wire::patience));
  EXPECT_FALSE(receive(*router).done().has_error());
}

TEST_F(data_server_test, routers_of_an_older_incarnation_are_forgotten_with_the_map) {
  greet();
  auto map = std::make_shared<cluster_map>();
  map->nodes.push_back({{"router-0"}, node_role::router, node_state::serving, {10}, "", "", ""});
  server->use_map(map);
  ASSERT_TRUE(eventually([&] { return server->counters().routers.value() == 0; }));
  expect_handshake_required();
}

}  // namespace
}  // namespace troupe::expert
