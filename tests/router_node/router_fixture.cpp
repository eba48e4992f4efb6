#include "tests/router_node/router_fixture.hpp"

#include <array>
#include <atomic>
#include <cstring>

#include <unistd.h>

#include "common/limits.hpp"
#include "router_node/shell/generation_metrics.hpp"

namespace troupe::router::testing {
namespace {

using std::chrono::steady_clock;

template <class Value>
std::vector<Value> values_of(const tensor_view& tensor) {
  std::vector<Value> values(tensor.bytes.size() / sizeof(Value));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

std::vector<float> floats_of(const tensor_view& tensor) {
  std::vector<float> values(tensor.bytes.size() / bytes_per_element(tensor.type));
  convert(tensor.type, tensor.bytes.data(), dtype::f32, reinterpret_cast<std::byte*>(values.data()), values.size());
  return values;
}

}  // namespace

// -- client -------------------------------------------------------------------------------------------------------

test_client::test_client(const std::shared_ptr<wire::context>& context, const std::string& address)
    : socket_(must(wire::socket::open(context, wire::socket_kind::dealer))) {
  EXPECT_TRUE(socket_.connect(address));
}

void test_client::send(const proto::ClientToRouter& envelope, wire::outgoing_message message) {
  // The connection is made in the background: until then there is nobody to send to.
  const auto deadline = steady_clock::now() + std::chrono::seconds(10);
  if (message.parts() > 0) {
    ASSERT_TRUE(message.send(socket_, envelope));
    return;
  }
  while (!wire::outgoing_message().send(socket_, envelope)) {
    ASSERT_LT(steady_clock::now(), deadline) << "the router does not listen";
    std::this_thread::yield();
  }
}

client_reply test_client::receive() {
  wire::poller poller;
  poller.add(socket_);
  const auto deadline = steady_clock::now() + std::chrono::seconds(10);
  while (steady_clock::now() < deadline) {
    poller.wait(std::chrono::milliseconds(100));
    auto got = wire::receive(socket_);
    if (!got) continue;
    client_reply reply;
    auto message = must(std::move(got->message));
    EXPECT_TRUE(message.parse(reply.envelope));
    if (reply.envelope.has_layer()) {
      const auto& layer = reply.envelope.layer();
      reply.output = floats_of(must(message.tensor(layer.output(), "output")));
      reply.routed = floats_of(must(message.tensor(layer.routed_output(), "routed_output")));
      reply.ids = values_of<std::int32_t>(must(message.tensor(layer.expert_ids(), "expert_ids")));
      reply.weights = values_of<float>(must(message.tensor(layer.expert_weights(), "expert_weights")));
      reply.flags = values_of<std::uint8_t>(must(message.tensor(layer.flags(), "flags")));
    }
    if (reply.envelope.has_inputs() && reply.envelope.inputs().has_hidden()) {
      const auto& inputs = reply.envelope.inputs();
      reply.output = floats_of(must(message.tensor(inputs.hidden(), "hidden")));
      reply.weights = values_of<float>(must(message.tensor(inputs.gate_weights(), "gate_weights")));
    }
    return reply;
  }
  ADD_FAILURE() << "the router does not answer";
  return {};
}

bool test_client::is_quiet(std::chrono::milliseconds time) {
  wire::poller poller;
  poller.add(socket_);
  return poller.wait(time) == 0;
}

proto::Welcome test_client::say_hello() {
  proto::ClientToRouter envelope;
  envelope.mutable_hello()->set_wire_major(limits::wire_version_major);
  send(envelope);
  auto reply = receive();
  EXPECT_TRUE(reply.envelope.has_welcome()) << reply.envelope.ShortDebugString();
  return reply.envelope.welcome();
}

std::uint64_t test_client::send_layer(const std::string& layer, const std::vector<float>& hidden, std::uint32_t width,
                                      const std::function<void(proto::LayerRequest&)>& adjust, dtype type) {
  proto::ClientToRouter envelope;
  auto& request = *envelope.mutable_layer();
  request.set_request_id(++last_request_);
  request.set_client_id("test");
  request.set_layer(layer);
  wire::outgoing_message message;
  std::vector<std::byte> bytes(hidden.size() * bytes_per_element(type));
  convert(dtype::f32, reinterpret_cast<const std::byte*>(hidden.data()), type, bytes.data(), hidden.size());
  const std::array<std::uint64_t, 2> shape{hidden.size() / width, width};
  EXPECT_TRUE(message.attach(*request.mutable_hidden(), type, shape, bytes));
  if (adjust) adjust(request);
  send(envelope, std::move(message));
  return request.request_id();
}

std::uint64_t test_client::send_experts(const std::string& layer, const std::vector<float>& hidden, std::uint32_t width,
                                        const std::vector<std::int32_t>& ids, const std::vector<float>& weights,
                                        const std::function<void(proto::ExpertsRequest&)>& adjust) {
  proto::ClientToRouter envelope;
  auto& request = *envelope.mutable_experts();
  request.set_request_id(++last_request_);
  request.set_client_id("test");
  request.set_layer(layer);
  const auto rows = hidden.size() / width;
  const std::array<std::uint64_t, 2> shape{rows, width};
  const std::array<std::uint64_t, 2> choice{rows, ids.size() / rows};
  wire::outgoing_message message;
  EXPECT_TRUE(message.attach(*request.mutable_hidden(), dtype::f32, shape, std::as_bytes(std::span(hidden))));
  EXPECT_TRUE(message.attach(*request.mutable_expert_ids(), dtype::i32, choice, std::as_bytes(std::span(ids))));
  EXPECT_TRUE(message.attach(*request.mutable_expert_weights(), dtype::f32, choice, std::as_bytes(std::span(weights))));
  if (adjust) adjust(request);
  send(envelope, std::move(message));
  return request.request_id();
}

// -- fixture ------------------------------------------------------------------------------------------------------

void router_test::start(const std::string& family, dtype wire) {
  auto pattern = (std::filesystem::temp_directory_path() / "troupe-router-XXXXXX").string();
  folder_ = ::mkdtemp(pattern.data());
  context_ = must(wire::context::make());
  const auto goldens = std::filesystem::path(TROUPE_SOURCE_DIR) / "tests/golden/dev";
  checkpoint_ = std::make_unique<model::checkpoint>(must(model::checkpoint::open(goldens / family)));
  plan_ = model_plan::make(checkpoint_->model(), wire);
  engine_ = must(layer_engine::make(*checkpoint_, dtype::f32, 1));
  metrics_ = std::make_unique<router_metrics>(plan_);
  identity_ = {.name = {"router-0"},
               .incarnation = [] { return incarnation_number{5}; },
               .cluster_id = [] { return std::string("test"); },
               .model = &checkpoint_->model(),
               .type = wire};
  environment_ = {.context = context_,
                  .self = {"router-0"},
                  .incarnation = identity_.incarnation,
                  .cluster_id = identity_.cluster_id,
                  .keys = std::nullopt,
                  .segment_bytes = limits::mib};
  std::vector<wire::socket> sockets;
  sockets.push_back(must(wire::socket::open(context_, wire::socket_kind::router)));
  client_address_ = must(sockets.front().bind("ipc://" + (folder_ / "router-0.client.ipc").string()));
  loop_settings settings{
      .plan = &plan_,
      .engine = engine_.get(),
      .self = &identity_,
      .links = &environment_,
      .metrics = metrics_.get(),
      .reservoir = reservoir_.get(),
      .explore_bias = explore_bias_,
      .ask_coordinator = [this](std::uint64_t id, info_kind kind, const std::string& layer) -> result<void> {
        if (coordinator_) return coordinator_(id, kind, layer);
        return fail(errc::unavailable, "coordinator lost since yesterday");
      },
      .acknowledge = [this](term_number, epoch_number epoch, epoch_number) { acknowledged_ = epoch.value; },
      .seed = 1};
  loop_ = std::make_unique<router_loop>(std::move(settings), std::move(sockets), must(wire::wake_signal::make()));
  thread_ = std::thread([this] { loop_->run(); });
  client_ = std::make_unique<test_client>(context_, client_address_);
  client_->say_hello();
}

void router_test::stop() {
  if (loop_) loop_->stop(std::chrono::milliseconds(0));
  if (thread_.joinable()) thread_.join();
  loop_.reset();
}

router_test::~router_test() {
  stop();
  client_.reset();
  hosts_.clear();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

fake_host& router_test::add_host(const std::string& name, std::uint64_t incarnation, bool maps_memory) {
  hosts_[name] = std::make_unique<fake_host>(context_, folder_, name, incarnation, maps_memory);
  known_hosts_[name] = {hosts_[name]->address(), incarnation};
  return *hosts_[name];
}

void router_test::publish(const std::vector<std::vector<std::string>>& placement) {
  auto map = std::make_shared<cluster_map>();
  map->term = {1};
  map->epoch = {++epoch_};
  map->cluster_id = "test";
  std::map<std::string, std::uint32_t> places;
  for (const auto& [name, host] : known_hosts_) {
    places[name] = static_cast<std::uint32_t>(map->nodes.size());
    map->nodes.push_back({.name = {name},
                          .role = node_role::expert,
                          .state = node_state::serving,
                          .incarnation = {host.second},
                          .data_address = host.first,
                          .public_key = {},
                          .machine_id = wire::machine_id()});
  }
  for (const auto& l : plan_.layers()) {
    for (std::uint32_t e = 0; e < l.num_experts; ++e) {
      map_expert expert{.id = {l.id, e}, .state = expert_state::active, .version = {1}, .digest = {}, .replicas = {}};
      for (const auto& host : placement[e % placement.size()]) expert.replicas.push_back({places.at(host), {e}, {1}});
      map->experts.push_back(std::move(expert));
    }
  }
  loop_->use_map(std::move(map));
  await([&] { return acknowledged_ == epoch_; }, "the map is acknowledged");
}

void router_test::await(const std::function<bool()>& holds, const std::string& what) {
  const auto deadline = steady_clock::now() + std::chrono::seconds(10);
  while (!holds()) {
    ASSERT_LT(steady_clock::now(), deadline) << "still not so: " << what;
    std::this_thread::yield();
  }
}

void router_test::await_links(std::uint32_t count) {
  await([&] { return loop_->health().hosts_ready == count; }, std::to_string(count) + " links");
}

std::string router_test::metrics_text() {
  http::metrics_registry registry;
  registry.add([this](std::vector<http::metric_family>& families) { metrics_->collect(families, text_load{}); });
  return registry.text();
}

std::vector<float> router_test::make_rows(std::uint32_t rows) const {
  std::vector<float> values(std::size_t{rows} * layer().hidden);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 7) % 15) - 7.0F;
  return values;
}

std::vector<float> router_test::expected(const client_reply& reply, const std::vector<float>& rows,
                                         std::uint32_t width) {
  std::vector<float> sums(rows.size());
  const auto count = rows.size() / width;
  const auto k = reply.ids.size() / count;
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t j = 0; j < k; ++j) {
      if (reply.ids[r * k + j] < 0) continue;
      const auto factor = reply.weights[r * k + j] * static_cast<float>(reply.ids[r * k + j] + 1);
      for (std::size_t c = 0; c < width; ++c) sums[r * width + c] += factor * rows[r * width + c];
    }
  }
  return sums;
}

}  // namespace troupe::router::testing
