#include "tests/client/cpp/fake_router.hpp"

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace troupe::client::testing {
namespace {

using namespace std::chrono_literals;

template <class T>
T must(result<T> outcome) {
  if (!outcome) throw std::runtime_error(outcome.error().message);
  return std::move(*outcome);
}

void must(const result<void>& outcome) {
  if (!outcome) throw std::runtime_error(outcome.error().message);
}

wire::socket bound_socket(const std::string& address) {
  auto socket = must(wire::socket::open(must(wire::context::make()), wire::socket_kind::router));
  must(socket.bind(address));
  return socket;
}

std::uint64_t id_of(const proto::ClientToRouter& envelope) {
  if (envelope.has_layer()) return envelope.layer().request_id();
  if (envelope.has_experts()) return envelope.experts().request_id();
  if (envelope.has_generate()) return envelope.generate().request_id();
  return envelope.info().request_id();
}

void answer_info(fake_router& router, const request& asked) {
  proto::RouterToClient envelope;
  envelope.mutable_info()->set_request_id(id_of(asked.envelope));
  envelope.mutable_info()->set_json("{\"kind\": " + std::to_string(asked.envelope.info().kind()) + ", \"layer\": \"" +
                                    asked.envelope.info().layer() + "\"}");
  router.send(asked.peer, wire::outgoing_message(asked.kind), envelope);
}

}  // namespace

void answer_layer(fake_router& router, const request& asked, float scale) {
  const bool gated = asked.envelope.has_experts();
  const auto& hidden = gated ? asked.envelope.experts().hidden() : asked.envelope.layer().hidden();
  const std::vector<std::uint64_t> shape(hidden.shape().begin(), hidden.shape().end());
  const auto& bytes = asked.tensors.at(0);
  std::vector<std::byte> output = bytes;
  if (hidden.dtype() == proto::F32) {
    for (std::size_t i = 0; i < bytes.size(); i += sizeof(float)) {
      float value = 0;
      std::memcpy(&value, &bytes[i], sizeof value);
      value *= scale;
      std::memcpy(&output[i], &value, sizeof value);
    }
  }
  std::vector<std::int32_t> ids(shape[0] * 2);
  std::vector<float> weights(shape[0] * 2, 0.5F);
  std::vector<std::uint8_t> flags(shape[0]);
  for (std::size_t row = 0; row < shape[0]; ++row) ids[2 * row] = 1;

  proto::RouterToClient envelope;
  auto& reply = *envelope.mutable_layer();
  reply.set_request_id(id_of(asked.envelope));
  reply.set_epoch(7);
  wire::outgoing_message message(asked.kind);
  const std::uint64_t choice[] = {shape[0], 2};
  const auto type = static_cast<troupe::dtype>(hidden.dtype());
  must(message.attach(*reply.mutable_output(), type, shape, output));
  must(message.attach(*reply.mutable_routed_output(), type, shape, bytes));
  must(message.attach(*reply.mutable_expert_ids(), troupe::dtype::i32, choice, std::as_bytes(std::span(ids))));
  must(message.attach(*reply.mutable_expert_weights(), troupe::dtype::f32, choice, std::as_bytes(std::span(weights))));
  must(message.attach(*reply.mutable_flags(), troupe::dtype::u8, std::span(choice).first(1),
                      std::as_bytes(std::span(flags))));
  router.send(asked.peer, std::move(message), envelope);
}

void answer_double(fake_router& router, const request& asked) {
  if (asked.envelope.has_info()) {
    answer_info(router, asked);
  } else {
    answer_layer(router, asked, 2);
  }
}

void answer_failure(fake_router& router, const request& asked, proto::ErrorCode code, const std::string& message) {
  proto::RouterToClient envelope;
  envelope.mutable_failure()->set_request_id(id_of(asked.envelope));
  envelope.mutable_failure()->mutable_error()->set_code(code);
  envelope.mutable_failure()->mutable_error()->set_message(message);
  router.send(asked.peer, wire::outgoing_message(asked.kind), envelope);
}

fake_router::fake_router(std::string address, behaviour act)
    : act_(std::move(act)), socket_(bound_socket(address)), stop_(must(wire::wake_signal::make())) {
  welcome.set_wire_major(1);
  welcome.set_cluster_id("cluster-under-test");
  welcome.set_rows_per_request_max(64);
  welcome.set_tensor_bytes_max(1 << 20);
  thread_ = std::thread([this] { run(); });
}

fake_router::~fake_router() {
  stopping_ = true;
  stop_.wake();
  thread_.join();
}

void fake_router::run() {
  wire::poller poller;
  poller.add(socket_);
  poller.add(stop_);
  while (!stopping_) {
    poller.wait(10s);
    while (auto got = wire::receive(socket_)) serve(std::move(*got));
  }
}

void fake_router::serve(wire::received got) {
  if (forget_.exchange(false)) greeted_.clear();
  request asked{got.routing_id, {}, {}, {}};
  if (!got.message || !got.message->parse(asked.envelope)) return;
  asked.kind = got.message->kind();
  if (asked.envelope.has_hello()) return greet(got.routing_id);
  if (!greeted_.contains(got.routing_id)) {
    proto::RouterToClient envelope;
    envelope.mutable_failure()->mutable_error()->set_code(proto::HANDSHAKE_REQUIRED);
    return send(got.routing_id, wire::outgoing_message(asked.kind), envelope);
  }
  auto keep = [&](const proto::Tensor& tensor) {
    const auto view = must(got.message->tensor(tensor, "tensor"));
    asked.tensors.emplace_back(view.bytes.begin(), view.bytes.end());
  };
  if (asked.envelope.has_layer()) keep(asked.envelope.layer().hidden());
  if (asked.envelope.has_experts()) {
    keep(asked.envelope.experts().hidden());
    keep(asked.envelope.experts().expert_ids());
    keep(asked.envelope.experts().expert_weights());
  }
  {
    const std::lock_guard lock(mutex_);
    seen_.push_back(asked.envelope);
  }
  act_(*this, asked);
}

void fake_router::greet(const std::string& peer) {
  ++hellos_;
  greeted_.insert(peer);
  proto::RouterToClient envelope;
  *envelope.mutable_welcome() = welcome;
  send(peer, wire::outgoing_message(), envelope);
}

void fake_router::send(const std::string& peer, wire::outgoing_message message, const proto::RouterToClient& envelope) {
  // A client that is gone by now is no failure of the test.
  std::ignore = message.send(socket_, envelope, peer);
}

std::vector<proto::ClientToRouter> fake_router::seen() const {
  const std::lock_guard lock(mutex_);
  return seen_;
}

bool fake_router::wait_until(const std::function<bool()>& condition) const {
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace troupe::client::testing
