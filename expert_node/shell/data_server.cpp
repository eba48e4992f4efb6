#include "expert_node/shell/data_server.hpp"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/wire/framing.hpp"
#include "common/wire/scratch_message.hpp"
#include "common/wire/server_socket.hpp"
#include "common/wire/shared_memory.hpp"
#include "expert_node/shell/call_decoder.hpp"
#include "expert_node/shell/handshake.hpp"
#include "expert_node/shell/layer_catalog.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "proto/router_expert.pb.h"

namespace troupe::expert {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How soon an answer that found its router's queue full is tried again.
constexpr milliseconds resend_interval{2};
constexpr milliseconds idle_wait{250};
// A router that the map does not (yet) know is forgotten only when its hello is older than this.
constexpr auto unknown_router_grace = limits::heartbeat_lost_after * 4;

// A router's process as it is connected now.
struct router_link {
  router_number number;
  node_id node;
  incarnation_number incarnation;
  time_point since;
  std::shared_ptr<wire::shared_segment> segment;  // nullptr: rows travel as parts
};

// What a call keeps alive, and what its answer needs.
struct call_storage {
  explicit call_storage(wire::incoming_message m) : message{std::move(m)} {}
  wire::incoming_message message;
  std::string routing_id;
  std::shared_ptr<wire::shared_segment> segment;
  std::unique_ptr<std::byte[]> output;  // when the answer travels as a part
  std::uint64_t output_offset{};        // in the segment, when it does not
};

void set_error(const error& reason, proto::Error& target) {
  target.set_code(static_cast<proto::ErrorCode>(reason.code));
  target.set_message(reason.message);
}

}  // namespace

class data_server::impl {
 public:
  impl(data_server_settings settings, wire::server_socket bound)
      : address{std::move(bound.address)},
        settings_{std::move(settings)},
        socket_{std::move(bound.requests)},
        wake_{std::move(bound.wake)},
        ledger_{settings_.bounds},
        thread_{[this] { run(); }} {}
  ~impl() { stop(); }

  void stop() {
    {
      std::lock_guard lock{mutex_};
      stopping_ = true;
    }
    wake_.wake();
    if (thread_.joinable()) thread_.join();
  }

  void answer(call_handle call) {
    {
      std::lock_guard lock{mutex_};
      answered_.push_back(std::move(call));
    }
    wake_.wake();
  }

  void use_map(std::shared_ptr<const cluster_map> map) {
    {
      std::lock_guard lock{mutex_};
      new_map_ = std::move(map);
    }
    wake_.wake();
  }

  bool drain(milliseconds grace) {
    std::unique_lock lock{mutex_};
    draining_ = true;
    wake_.wake();
    return drained_.wait_for(lock, grace, [this] { return idle_ || stopping_; }) && idle_;
  }

  const std::string address;
  data_server_counters counters;

 private:
  void run();
  [[nodiscard]] bool take_orders(std::vector<call_handle>& answered);
  void receive_waiting();
  void handle(wire::received& got);
  void on_hello(const wire::received& got, const proto::Hello& hello);
  void on_run(wire::received& got, const proto::RunExperts& run);
  [[nodiscard]] result<call_handle> accept(const router_link& link, wire::received& got, const proto::RunExperts& run);
  [[nodiscard]] result<tensor_view> view(const router_link& link, const wire::incoming_message& message,
                                         const proto::Tensor& tensor, std::string_view field) const;
  void refuse_message(const wire::received& got, const error& reason);
  void refuse_call(const wire::received& got, const proto::RunExperts& run, const error& reason);
  void send_answers();
  [[nodiscard]] result<void> send_answer(const expert_call& call);
  void finish(const expert_call& call, bool sent);
  void forget_routers(const cluster_map& map);
  void count_refusal(errc code);

  // Constant after construction.
  data_server_settings settings_;

  // The server's thread.
  wire::socket socket_;
  wire::wake_signal wake_;  // wake() from any thread
  call_ledger ledger_;
  std::unordered_map<std::string, router_link> links_;  // by routing id
  std::uint64_t routers_numbered_{};
  std::deque<call_handle> unsent_;

  // Guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable drained_;
  std::vector<call_handle> answered_;
  std::shared_ptr<const cluster_map> new_map_;
  bool stopping_{};
  bool draining_{};
  bool idle_{};

  std::thread thread_;  // last: it uses everything above
};

void data_server::impl::run() {
  wire::poller waiting;
  waiting.add(socket_);
  waiting.add(wake_);
  std::vector<call_handle> answered;
  while (true) {
    waiting.wait(unsent_.empty() ? idle_wait : resend_interval);
    wake_.clear();
    if (!take_orders(answered)) return;
    for (auto& call : answered) unsent_.push_back(std::move(call));
    answered.clear();
    send_answers();
    receive_waiting();
    counters.rows_in_flight.set(static_cast<double>(ledger_.rows()));
  }
}

bool data_server::impl::take_orders(std::vector<call_handle>& answered) {
  std::shared_ptr<const cluster_map> map;
  {
    std::lock_guard lock{mutex_};
    if (stopping_) {
      drained_.notify_all();
      return false;
    }
    answered.swap(answered_);
    map.swap(new_map_);
    if (draining_) {
      ledger_.close();
      idle_ = ledger_.calls() == 0;
      if (idle_) drained_.notify_all();
    }
  }
  if (map != nullptr) forget_routers(*map);
  return true;
}

// -- receiving ----------------------------------------------------------------------------------------------------

void data_server::impl::receive_waiting() {
  // Bounded, so that answers are never behind an endless stream of calls.
  for (int count = 0; count < limits::queued_messages_max; ++count) {
    auto got = wire::receive(socket_);
    if (!got) return;
    handle(*got);
  }
  wake_.wake();
}

void data_server::impl::handle(wire::received& got) {
  if (!got.message) return refuse_message(got, got.message.error());
  wire::scratch_message<proto::RouterToExpert> scratch;
  auto& envelope = *scratch;
  if (auto parsed = got.message->parse(envelope); !parsed) return refuse_message(got, parsed.error());
  if (envelope.has_hello()) return on_hello(got, envelope.hello());
  on_run(got, envelope.run());
}

void data_server::impl::on_hello(const wire::received& got, const proto::Hello& hello) {
  if (auto fine = check_hello(hello, *settings_.identity, got.user_id); !fine) {
    spdlog::warn("router refused: {}", fine.error().message);
    return refuse_message(got, fine.error());
  }
  router_link link{{0}, {hello.node()}, {hello.incarnation()}, steady_clock::now(), nullptr};
  // A router's new connection replaces its old one; a new process of it is another router.
  for (auto old = links_.begin(); old != links_.end();) {
    if (old->second.node != link.node) {
      ++old;
      continue;
    }
    if (old->second.incarnation == link.incarnation) link.number = old->second.number;
    old = links_.erase(old);
  }
  if (links_.size() >= limits::nodes_max) {
    return refuse_message(got, {errc::overloaded, fmt::format("{} routers are connected already", links_.size())});
  }
  if (link.number.value == 0) link.number = {++routers_numbered_};
  if (hello.has_segment() && hello.segment().machine_id() == wire::machine_id()) {
    auto opened = wire::shared_segment::open(hello.segment().name(), hello.segment().bytes());
    if (opened) {
      link.segment = std::make_shared<wire::shared_segment>(std::move(*opened));
    } else {
      spdlog::warn("shared memory of {} not mapped, its rows travel over the socket: {}", hello.node(),
                   opened.error().message);
    }
  }
  proto::ExpertToRouter envelope;
  fill_welcome(*settings_.identity, *envelope.mutable_welcome());
  envelope.mutable_welcome()->set_segment_mapped(link.segment != nullptr);
  links_[got.routing_id] = std::move(link);
  counters.routers.set(static_cast<double>(links_.size()));
  wire::outgoing_message answer{got.message->kind()};
  if (auto sent = answer.send(socket_, envelope, got.routing_id); !sent) links_.erase(got.routing_id);
}

void data_server::impl::on_run(wire::received& got, const proto::RunExperts& run) {
  counters.calls_received.add();
  auto link = links_.find(got.routing_id);
  if (link == links_.end()) {
    return refuse_message(got, {errc::handshake_required, "say hello before the first call of a connection"});
  }
  if (!settings_.layers->hidden({run.layer()})) {
    counters.calls_invalid.add();
    return refuse_call(got, run,
                       {errc::unknown_expert, fmt::format("this node holds no expert of a layer {}; refresh "
                                                          "the cluster map",
                                                          to_string(layer_id{run.layer()}))});
  }
  auto call = accept(link->second, got, run);
  if (!call) {
    count_refusal(call.error().code);
    return refuse_call(got, run, call.error());
  }
  settings_.submit(std::move(*call));
}

result<tensor_view> data_server::impl::view(const router_link& link, const wire::incoming_message& message,
                                            const proto::Tensor& tensor, std::string_view field) const {
  if (!tensor.has_shared()) return message.tensor(tensor, field);
  if (link.segment == nullptr) {
    return fail(errc::invalid_request, fmt::format("{}: this link has no shared memory; send it as a part", field));
  }
  return wire::decode_shared_tensor(tensor, link.segment->bytes(), field);
}

result<call_handle> data_server::impl::accept(const router_link& link, wire::received& got,
                                              const proto::RunExperts& run) {
  const auto arrived = steady_clock::now();
  auto storage = std::make_shared<call_storage>(std::move(*got.message));
  call_tensors tensors;
  for (auto [tensor, target, field] : {std::tuple{&run.hidden(), &tensors.hidden, "hidden"},
                                       std::tuple{&run.row_index(), &tensors.row_index, "row_index"},
                                       std::tuple{&run.gate_weight(), &tensors.gate_weight, "gate_weight"}}) {
    auto checked = view(link, storage->message, *tensor, field);
    if (!checked) return fail(checked.error());
    *target = std::move(*checked);
  }
  auto decoded = decode_call(run, tensors, {*settings_.layers->hidden({run.layer()}), settings_.reject_nonfinite});
  if (!decoded) return decoded;
  auto& call = **decoded;
  call.id.router = link.number;
  call.arrived = arrived;
  call.deadline = arrived + std::min<milliseconds>(milliseconds{run.timeout_ms()}, limits::request_timeout_max);
  call.input = tensors.hidden.bytes.data();
  const auto bytes = call.tensor_bytes();
  if (run.has_output()) {
    if (link.segment == nullptr) return fail(errc::invalid_request, "output: this link has no shared memory");
    auto range = decode_output_range(run.output(), link.segment->bytes(), bytes, tensors.hidden.bytes);
    if (!range) return fail(range.error());
    call.output = range->data();
    storage->output_offset = run.output().offset();
  }
  if (run.timeout_ms() == 0) return fail(errc::timeout, "timeout_ms: 0, the deadline has passed; allow more time");
  if (auto admitted = ledger_.admit(call.id, call.rows, 2 * bytes); !admitted) return fail(admitted.error());
  if (!run.has_output()) {
    storage->output = std::make_unique_for_overwrite<std::byte[]>(bytes);
    call.output = storage->output.get();
  }
  counters.bytes_received.add(static_cast<double>(bytes));
  storage->routing_id = got.routing_id;
  storage->segment = link.segment;
  call.storage = std::move(storage);
  return decoded;
}

void data_server::impl::count_refusal(errc code) {
  switch (code) {
    case errc::overloaded:
    case errc::unavailable:
      return counters.calls_overloaded.add();
    case errc::in_progress:
    case errc::conflict:
      return counters.calls_repeated.add();
    case errc::timeout:
      return counters.calls_expired.add();
    default:
      return counters.calls_invalid.add();
  }
}

// The message itself could not be used. Without an answer a peer that is no router of ours would not notice.
void data_server::impl::refuse_message(const wire::received& got, const error& reason) {
  counters.messages_rejected.add();
  proto::ExpertToRouter envelope;
  set_error(reason, *envelope.mutable_refused());
  wire::outgoing_message answer;
  if (!answer.send(socket_, envelope, got.routing_id)) counters.answers_dropped.add();
}

void data_server::impl::refuse_call(const wire::received& got, const proto::RunExperts& run, const error& reason) {
  proto::ExpertToRouter envelope;
  auto& done = *envelope.mutable_done();
  done.set_request_id(run.request_id());
  done.set_attempt(run.attempt());
  done.set_incarnation(settings_.identity->incarnation().value);
  done.set_epoch(settings_.identity->epoch().value);
  set_error(reason, *done.mutable_error());
  if (reason.code == errc::unknown_expert) {
    for (const auto& wanted : run.experts()) done.add_not_held(wanted.expert());
  }
  wire::outgoing_message answer;
  if (!answer.send(socket_, envelope, got.routing_id)) counters.answers_dropped.add();
}

// -- answering ----------------------------------------------------------------------------------------------------

void data_server::impl::send_answers() {
  const auto now = steady_clock::now();
  std::deque<call_handle> later;
  for (auto& call : unsent_) {
    auto sent = send_answer(*call);
    bool retry = !sent && sent.error().code == errc::overloaded && call->deadline > now;
    if (retry) {
      later.push_back(std::move(call));
    } else {
      finish(*call, sent.has_value());
    }
  }
  unsent_.swap(later);
}

result<void> data_server::impl::send_answer(const expert_call& call) {
  auto storage = std::static_pointer_cast<call_storage>(call.storage);
  // After a new hello the old link's calls are void, and its memory is not the new link's.
  auto link = links_.find(storage->routing_id);
  if (link == links_.end() || link->second.number != call.id.router || link->second.segment != storage->segment) {
    return fail(errc::unavailable, "the router has gone");
  }
  wire::scratch_message<proto::ExpertToRouter> scratch;
  auto& envelope = *scratch;
  auto& done = *envelope.mutable_done();
  done.set_request_id(call.id.request.value);
  done.set_attempt(call.id.attempt);
  done.set_incarnation(settings_.identity->incarnation().value);
  done.set_epoch(settings_.identity->epoch().value);
  done.set_queue_us(static_cast<std::uint64_t>(call.outcome.waited.count()));
  done.set_compute_us(static_cast<std::uint64_t>(call.outcome.computed.count()));
  for (auto expert : call.outcome.not_held) done.add_not_held(expert);
  wire::outgoing_message answer{storage->message.kind()};
  if (call.outcome.failed) {
    set_error(*call.outcome.failed, *done.mutable_error());
  } else {
    const std::array<std::uint64_t, 2> shape{call.rows, call.hidden};
    if (storage->output == nullptr) {
      wire::describe_shared(*done.mutable_output(), call.type, shape, storage->output_offset, call.tensor_bytes());
    } else {
      std::span<const std::byte> rows{call.output, call.tensor_bytes()};
      if (auto attached = answer.attach(*done.mutable_output(), call.type, shape, rows, storage); !attached) {
        return attached;
      }
    }
    counters.bytes_sent.add(static_cast<double>(call.tensor_bytes()));
  }
  auto sent = answer.send(socket_, envelope, storage->routing_id);
  if (!sent && sent.error().code == errc::unavailable) links_.erase(link);
  return sent;
}

void data_server::impl::finish(const expert_call& call, bool sent) {
  (sent ? counters.answers_sent : counters.answers_dropped).add();
  static_cast<void>(ledger_.settle(call.id));
}

void data_server::impl::forget_routers(const cluster_map& map) {
  const auto now = steady_clock::now();
  const bool lists_routers =
      std::ranges::any_of(map.nodes, [](const map_node& node) { return node.role == node_role::router; });
  std::erase_if(links_, [&](const auto& entry) {
    const auto& link = entry.second;
    const auto* known = map.find(link.node);
    // A map that lists no routers says nothing about this one.
    if (known == nullptr) return lists_routers && now - link.since > unknown_router_grace;
    return known->incarnation > link.incarnation;
  });
  counters.routers.set(static_cast<double>(links_.size()));
}

// -----------------------------------------------------------------------------------------------------------------

result<std::unique_ptr<data_server>> data_server::start(data_server_settings settings) {
  auto bound = wire::server_socket::bind(settings.context, settings.socket, settings.address);
  if (!bound) return fail(std::move(bound.error()));
  return std::unique_ptr<data_server>{new data_server{std::make_unique<impl>(std::move(settings), std::move(*bound))}};
}

data_server::data_server(std::unique_ptr<impl> i) : impl_{std::move(i)} {}
data_server::~data_server() = default;
const std::string& data_server::address() const { return impl_->address; }
const data_server_counters& data_server::counters() const { return impl_->counters; }
void data_server::answer(call_handle call) { impl_->answer(std::move(call)); }
void data_server::use_map(std::shared_ptr<const cluster_map> map) { impl_->use_map(std::move(map)); }
bool data_server::drain(milliseconds grace) { return impl_->drain(grace); }
void data_server::stop() { impl_->stop(); }

}  // namespace troupe::expert
