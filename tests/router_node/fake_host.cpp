#include "tests/router_node/fake_host.hpp"

#include <array>
#include <cstring>
#include <span>
#include <stdexcept>

#include "common/limits.hpp"

namespace troupe::router::testing {
namespace {

template <class T>
T must(result<T> value) {
  if (!value) throw std::runtime_error(value.error().message);
  return std::move(*value);
}

std::string bind_in(wire::socket& socket, const std::filesystem::path& folder, const std::string& name) {
  return must(socket.bind("ipc://" + (folder / (name + ".data.ipc")).string()));
}

}  // namespace

fake_host::fake_host(std::shared_ptr<wire::context> context, const std::filesystem::path& folder, std::string name,
                     std::uint64_t incarnation, bool maps_memory)
    : name_(std::move(name)),
      incarnation_(incarnation),
      maps_memory_(maps_memory),
      socket_(must(wire::socket::open(std::move(context), wire::socket_kind::router))),
      address_(bind_in(socket_, folder, name_)),
      wake_(must(wire::wake_signal::make())) {
  thread_ = std::thread([this] { serve(); });
}

fake_host::~fake_host() {
  stopping_ = true;
  wake_.wake();
  thread_.join();
}

void fake_host::behave(manner how) {
  manner_ = how;
  wake_.wake();
}

void fake_host::serve() {
  wire::poller poller;
  poller.add(socket_);
  poller.add(wake_);
  while (!stopping_) {
    poller.wait(std::chrono::seconds(1));
    wake_.clear();
    if (manner_ != manner::silent) {
      for (const auto& call : std::exchange(silent_, {})) answer(call);
    }
    while (auto got = wire::receive(socket_)) handle(std::move(*got));
  }
}

void fake_host::handle(wire::received got) {
  proto::RouterToExpert envelope;
  if (!got.message || !got.message->parse(envelope)) return;
  if (envelope.has_hello()) return on_hello(got.routing_id, envelope.hello());
  ++calls_;
  waiting_call call{got.routing_id, envelope.run(), std::make_shared<wire::incoming_message>(std::move(*got.message))};
  if (call.run.hidden().has_shared()) ++shared_calls_;
  if (manner_ == manner::silent) {
    silent_.push_back(std::move(call));
  } else {
    answer(call);
  }
}

void fake_host::on_hello(const std::string& routing_id, const proto::Hello& hello) {
  segment_.reset();
  if (maps_memory_ && hello.has_segment()) {
    auto opened = wire::shared_segment::open(hello.segment().name(), hello.segment().bytes());
    if (opened) segment_ = std::make_unique<wire::shared_segment>(std::move(*opened));
  }
  proto::ExpertToRouter envelope;
  auto& welcome = *envelope.mutable_welcome();
  welcome.set_wire_major(limits::wire_version_major);
  welcome.set_cluster_id(hello.cluster_id());
  welcome.set_node(name_);
  welcome.set_incarnation(incarnation_);
  welcome.set_tensor_bytes_max(limits::tensor_bytes_max);
  welcome.set_segment_mapped(segment_ != nullptr);
  (void)wire::outgoing_message().send(socket_, envelope, routing_id);
}

tensor_view fake_host::view(const waiting_call& call, const proto::Tensor& tensor) const {
  return tensor.has_shared() ? must(wire::decode_shared_tensor(tensor, segment_->bytes(), "test"))
                             : must(call.message->tensor(tensor, "test"));
}

std::vector<std::byte> fake_host::compute(const waiting_call& call) const {
  const auto hidden = view(call, call.run.hidden());
  const auto index = view(call, call.run.row_index());
  const auto weight = view(call, call.run.gate_weight());
  const auto rows = hidden.shape[0];
  const auto width = hidden.shape[1];
  std::vector<float> x(rows * width);
  convert(hidden.type, hidden.bytes.data(), dtype::f32, reinterpret_cast<std::byte*>(x.data()), x.size());
  std::vector<float> y(x.size());
  std::size_t a = 0;
  for (const auto& e : call.run.experts()) {
    for (std::uint32_t i = 0; i < e.assignments(); ++i, ++a) {
      std::int32_t row = 0;
      float w = 0;
      std::memcpy(&row, index.bytes.data() + 4 * a, 4);
      std::memcpy(&w, weight.bytes.data() + 4 * a, 4);
      for (std::size_t c = 0; c < width; ++c) {
        y[static_cast<std::size_t>(row) * width + c] +=
            w * static_cast<float>(e.expert() + 1) * x[static_cast<std::size_t>(row) * width + c];
      }
    }
  }
  std::vector<std::byte> bytes(hidden.bytes.size());
  convert(dtype::f32, reinterpret_cast<const std::byte*>(y.data()), hidden.type, bytes.data(), y.size());
  return bytes;
}

void fake_host::answer(const waiting_call& call) {
  proto::ExpertToRouter envelope;
  auto& done = *envelope.mutable_done();
  done.set_request_id(call.run.request_id());
  done.set_attempt(call.run.attempt());
  done.set_incarnation(incarnation_);
  switch (manner_.load()) {
    case manner::refusing:
      done.mutable_error()->set_code(proto::OVERLOADED);
      done.mutable_error()->set_message("full on purpose");
      break;
    case manner::not_holding:
      done.mutable_error()->set_code(proto::UNKNOWN_EXPERT);
      done.mutable_error()->set_message("not held on purpose");
      break;
    case manner::lying: {
      const std::array<std::uint64_t, 2> shape{1, 1};
      wire::outgoing_message message;
      (void)message.attach(*done.mutable_output(), dtype::f32, shape, std::array<std::byte, 4>{});
      (void)message.send(socket_, envelope, call.routing_id);
      return;
    }
    case manner::doubling:
      return send_done(call, {call.run.attempt(), call.run.attempt() + 1000, call.run.attempt()});
    case manner::honest:
    case manner::silent:
      return send_done(call, {call.run.attempt()});
  }
  ++answers_;
  (void)wire::outgoing_message().send(socket_, envelope, call.routing_id);
}

void fake_host::send_done(const waiting_call& call, std::initializer_list<std::uint32_t> attempts) {
  proto::ExpertToRouter envelope;
  auto& done = *envelope.mutable_done();
  done.set_request_id(call.run.request_id());
  done.set_incarnation(incarnation_);
  const auto bytes = compute(call);
  const auto hidden = view(call, call.run.hidden());
  // The memory of the call is the router's again once it has the first answer.
  if (call.run.has_output()) {
    std::memcpy(segment_->bytes().data() + call.run.output().offset(), bytes.data(), bytes.size());
    wire::describe_shared(*done.mutable_output(), hidden.type, hidden.shape, call.run.output().offset(), bytes.size());
  }
  for (const auto attempt : attempts) {
    done.set_attempt(attempt);
    wire::outgoing_message message;
    if (!call.run.has_output()) (void)message.attach(*done.mutable_output(), hidden.type, hidden.shape, bytes);
    ++answers_;
    (void)message.send(socket_, envelope, call.routing_id);
  }
}

}  // namespace troupe::router::testing
