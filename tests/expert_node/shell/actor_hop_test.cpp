// What the way socket thread -> expert host -> socket thread costs, beside the same without the actor. Prints medians;
// fails only when a hop takes so long that something must be wrong (an idle scheduler's sleep, say).
#include <algorithm>
#include <chrono>
#include <cstdio>

#include <gtest/gtest.h>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>

#include "common/wire/framing.hpp"
#include "expert_node/shell/data_server.hpp"
#include "expert_node/shell/expert_host.hpp"
#include "expert_node/shell/layer_catalog.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "proto/router_expert.pb.h"
#include "tests/common/wire_fixture.hpp"
#include "tests/expert_node/shell/fakes.hpp"

namespace troupe::expert {
namespace {

using std::chrono::duration;
using std::chrono::steady_clock;
using wire::must;

constexpr std::uint32_t width = 64;
constexpr layer_id layer = layer_id::of(0);
constexpr int rounds = 500;

class answering_ports : public testing::recording_ports {
 public:
  void answer(call_handle call) override { server->answer(std::move(call)); }
  data_server* server{};
};

std::unique_ptr<data_server> serve(const wire::temporary_folder& folder, std::shared_ptr<wire::context> context,
                                   std::function<void(call_handle)> submit) {
  auto layers = std::make_shared<layer_catalog>(nullptr);
  model::bundle_layout layout;
  layout.id = {layer, 0};
  layout.shape.hidden = width;
  layers->learn(layout);
  data_server_settings settings;
  settings.context = std::move(context);
  settings.address = folder.ipc("hop.data.ipc");
  settings.identity = std::make_shared<node_identity>(node_id{"expert-0"}, "c1", incarnation_number{1});
  settings.layers = layers;
  settings.submit = std::move(submit);
  return must(data_server::start(std::move(settings)));
}

// Median microseconds of one-row calls, one at a time.
double round_trip_us(wire::socket& router) {
  proto::RouterToExpert hello;
  hello.mutable_hello()->set_wire_major(limits::wire_version_major);
  hello.mutable_hello()->set_cluster_id("c1");
  hello.mutable_hello()->set_node("router-0");
  wire::send_when_connected(router, hello);
  EXPECT_TRUE(wire::receive_within(router));
  const std::vector<float> row(width, 1.0F);
  const std::array<std::uint64_t, 2> shape{1, width};
  const std::array<std::uint64_t, 1> one{1};
  const std::int32_t index = 0;
  const float weight = 1.0F;
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    const auto begin = steady_clock::now();
    proto::RouterToExpert envelope;
    auto& run = *envelope.mutable_run();
    run.set_request_id(static_cast<std::uint64_t>(round) + 1);
    run.set_timeout_ms(10'000);
    auto& expert = *run.add_experts();
    expert.set_version(1);
    expert.set_assignments(1);
    wire::outgoing_message message;
    must(message.attach(*run.mutable_hidden(), dtype::f32, shape, std::as_bytes(std::span{row})));
    must(message.attach(*run.mutable_row_index(), dtype::i32, one, std::as_bytes(std::span{&index, 1})));
    must(message.attach(*run.mutable_gate_weight(), dtype::f32, one, std::as_bytes(std::span{&weight, 1})));
    must(message.send(router, envelope));
    EXPECT_TRUE(wire::receive_within(router));
    times.push_back(duration<double, std::micro>(steady_clock::now() - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[rounds / 2];
}

TEST(actor_hop, costs_microseconds) {
  auto context = must(wire::context::make());
  double direct = 0;
  {
    wire::temporary_folder folder;
    data_server* target = nullptr;
    auto server = serve(folder, context, [&](call_handle call) { target->answer(std::move(call)); });
    target = server.get();
    auto router = must(wire::socket::open(context, wire::socket_kind::dealer));
    must(router.connect(server->address()));
    direct = round_trip_us(router);
  }
  auto ports = std::make_shared<answering_ports>();
  auto log = std::make_shared<testing::device_log>();
  caf::actor_system_config config;
  config.set("scheduler.max-threads", 1);
  caf::actor_system system{config};
  expert_host_settings settings;
  settings.make_device = [log]() -> result<std::unique_ptr<compute::device>> {
    return std::make_unique<testing::fake_device>(log);
  };
  settings.size_arena = [](const compute::device&) -> result<arena_size> { return arena_size{1, 64}; };
  settings.probe = [](compute::device&, slot_index, const compute::probe_sample&) { return result<void>{}; };
  settings.ports = ports;
  settings.statistics_interval = std::chrono::milliseconds{0};
  auto host = spawn_expert_host(system, std::move(settings));
  caf::scoped_actor self{system};
  result<host_facts> facts;
  self->request(host, std::chrono::seconds{10}, start_host{})
      .receive([&](const host_started& reply) { facts = reply.facts; }, [](const caf::error&) { FAIL(); });
  ASSERT_TRUE(facts);
  auto layout = std::make_shared<model::bundle_layout>();
  layout->id = {layer, 0};
  layout->shape = {.hidden = width, .width = 1};
  const float factor = 2.0F;
  must(facts->memory->load({0}, *layout, std::as_bytes(std::span{&factor, 1})));
  caf::anon_send(host, load_expert{{1}, {{0}, {{layer, 0}, {1}}, std::nullopt, {}}});
  caf::anon_send(host, slot_loaded{{0}, layout, {}, nullptr});

  wire::temporary_folder folder;
  auto server = serve(folder, context, [&](call_handle call) { caf::anon_send(host, serve_call{std::move(call)}); });
  ports->server = server.get();
  auto router = must(wire::socket::open(context, wire::socket_kind::dealer));
  must(router.connect(server->address()));
  const double through_actor = round_trip_us(router);
  std::printf("one row over ipc, median: %.0f us without the actor, %.0f us through it: %.0f us for the hop\n", direct,
              through_actor, through_actor - direct);
  EXPECT_LT(through_actor - direct, 5000.0);
  self->request(host, std::chrono::seconds{10}, stop_host{})
      .receive([](const host_stopped&) {}, [](const caf::error&) { FAIL(); });
  EXPECT_NE(log->ran_on, std::this_thread::get_id());
}

}  // namespace
}  // namespace troupe::expert
