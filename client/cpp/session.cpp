#include "client/cpp/session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <utility>

#include "common/limits.hpp"
#include "proto/client_router.pb.h"

namespace troupe::client {
namespace {

using steady = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::string_view software = "troupe-cpp/0.1.0";
// The router keeps the deadline; this is how much longer its verdict is waited for.
constexpr milliseconds answer_grace{1000};
// Pause after all routers have failed in a row; doubles up to the maximum.
constexpr milliseconds reconnect_pause_min{50};
constexpr milliseconds reconnect_pause_max{1000};
// Pause before a request that is being executed already is asked for again.
constexpr milliseconds in_progress_pause{100};

errc code_of(const proto::Error& wire_error) {
  const auto number = static_cast<int>(wire_error.code());
  const bool known = number > 0 && proto::ErrorCode_IsValid(number);
  return known ? static_cast<errc>(number) : errc::internal;
}

std::string random_id() {
  std::random_device source;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", source(), source(), source(), source());
}

// Counts the frames that libzmq still reads the caller's memory through.
class borrowed_memory {
 public:
  // An owner for frame::sharing: its end tells that libzmq has let go.
  [[nodiscard]] std::shared_ptr<const void> lend() {
    in_use_->fetch_add(1, std::memory_order_relaxed);
    return {in_use_.get(), [in_use = in_use_](const void*) {
              if (in_use->fetch_sub(1, std::memory_order_release) == 1) in_use->notify_all();
            }};
  }
  [[nodiscard]] bool released() const { return in_use_->load(std::memory_order_acquire) == 0; }
  // Ends soon: either the bytes are on their way, or their socket was closed without linger.
  void wait_until_released() const {
    for (auto count = in_use_->load(std::memory_order_acquire); count != 0;
         count = in_use_->load(std::memory_order_acquire)) {
      in_use_->wait(count, std::memory_order_acquire);
    }
  }

 private:
  std::shared_ptr<std::atomic<int>> in_use_{std::make_shared<std::atomic<int>>(0)};
};

}  // namespace

question::question() : envelope(std::make_unique<proto::ClientToRouter>()) {}
question::~question() = default;

answer::answer(wire::incoming_message received)
    : envelope(std::make_unique<proto::RouterToClient>()), message(std::move(received)) {}
answer::answer(answer&&) noexcept = default;
answer& answer::operator=(answer&&) noexcept = default;
answer::~answer() = default;

struct session::pending {
  question& asked;
  time_point begun;
  time_point deadline;
  std::uint64_t request_id;
  std::uint32_t attempts{};
  borrowed_memory memory{};
};

session::session(target where, std::shared_ptr<wire::context> ctx)
    : routers_(std::move(where.routers)),
      context_(std::move(ctx)),
      client_id_(random_id()),
      cluster_id_(std::move(where.cluster_id)) {}

result<std::unique_ptr<session>> session::make(target where) {
  auto context = wire::context::make();
  if (!context) return fail(std::move(context.error()));
  return std::unique_ptr<session>(new session(std::move(where), std::move(*context)));
}

error session::error_of(const proto::Failure& failure) {
  const auto& message = failure.error().message();
  return {code_of(failure.error()), message.empty() ? "the router gave no reason; look at its log" : message};
}

// -- the link -----------------------------------------------------------------------------------------------------

result<void> session::greet(milliseconds timeout) {
  refusals_.clear();
  return connect(steady::now() + timeout);
}

result<void> session::connect(time_point deadline) {
  const auto begun = steady::now();
  while (!ready_) {
    if (steady::now() >= deadline) return fail(nobody(begun));
    if (!link_) {
      auto opened = router_link::open(context_, routers_[current_]);
      if (!opened) return fail(std::move(opened.error()));
      link_ = std::move(*opened);
    }
    auto greeted = say_hello(std::min(deadline, steady::now() + limits::handshake_timeout));
    if (greeted) break;
    if (!is_retryable(greeted.error().code)) {
      refusals_.insert_or_assign(current_, greeted.error());
      if (refusals_.size() == routers_.size()) {
        drop(greeted.error().message);
        return greeted;
      }
    }
    drop(std::move(greeted.error().message));
    if (auto rested = pause_after_round(deadline); !rested) return rested;
  }
  return {};
}

result<void> session::say_hello(time_point deadline) {
  proto::ClientToRouter envelope;
  auto& hello = *envelope.mutable_hello();
  hello.set_wire_major(limits::wire_version_major);
  hello.set_wire_minor(limits::wire_version_minor);
  hello.set_cluster_id(cluster_id_);
  hello.set_software(std::string(software));
  wire::outgoing_message message;
  if (auto sent = link_->send(message, envelope); !sent) return fail(errc::unavailable, sent.error().message);
  while (true) {
    auto news = link_->next(deadline);
    if (std::holds_alternative<link_silent>(news)) {
      return fail(errc::unavailable, fmt::format("{} did not answer the handshake", link_->address()));
    }
    if (auto* lost = std::get_if<link_lost>(&news)) {
      return fail(lost->refused ? errc::permission_denied : errc::unavailable, std::move(lost->reason));
    }
    proto::RouterToClient reply;
    if (auto parsed = std::get<wire::incoming_message>(news).parse(reply); !parsed) {
      return fail(errc::unavailable, parsed.error().message);
    }
    if (reply.has_welcome()) return accept(reply.welcome());
    // An answer to a question of before the new handshake is late; only a Failure answers a Hello.
    if (reply.has_failure() && reply.failure().request_id() == 0) return fail(error_of(reply.failure()));
  }
}

result<void> session::accept(const proto::Welcome& welcome) {
  if (!cluster_id_.empty() && welcome.cluster_id() != cluster_id_) {
    return fail(
        errc::wrong_cluster,
        fmt::format("{} belongs to cluster {}, this client to {}; connect again with the context of that cluster",
                    link_->address(), welcome.cluster_id(), cluster_id_));
  }
  cluster_id_ = welcome.cluster_id();
  rows_max_ = welcome.rows_per_request_max();
  tensor_bytes_max_ = welcome.tensor_bytes_max();
  ready_ = true;
  failures_ = 0;
  refusals_.clear();
  return {};
}

void session::drop(std::string reason) {
  link_.reset();
  ready_ = false;
  last_failure_ = std::move(reason);
  current_ = (current_ + 1) % routers_.size();
  ++failures_;
}

result<void> session::pause_after_round(time_point deadline) {
  if (failures_ % routers_.size() != 0) return {};
  std::this_thread::sleep_until(std::min<time_point>(deadline, steady::now() + pause(failures_ / routers_.size() - 1)));
  return {};
}

milliseconds session::pause(std::size_t repeated) {
  const auto longest = std::min(reconnect_pause_min * (1 << std::min<std::size_t>(repeated, 10)), reconnect_pause_max);
  return longest / 2 + milliseconds(std::uniform_int_distribution<milliseconds::rep>(0, longest.count() / 2)(jitter_));
}

// An idle connection may have been lost, and answers to questions that were given up may have come.
void session::notice_loss() {
  while (link_) {
    auto news = link_->next(time_point::min());
    if (std::holds_alternative<link_silent>(news)) return;
    if (auto* lost = std::get_if<link_lost>(&news)) drop(std::move(lost->reason));
  }
}

error session::nobody(time_point begun) const {
  std::string addresses;
  for (const auto& router : routers_) addresses += (addresses.empty() ? "" : ", ") + router.address;
  const auto waited = std::chrono::duration_cast<milliseconds>(steady::now() - begun);
  return {errc::unavailable, fmt::format("no router answered at {} within {} ms (last: {}); is the cluster up? 'troupe "
                                         "status' tells",
                                         addresses, waited.count(), last_failure_)};
}

// -- questions ----------------------------------------------------------------------------------------------------

result<answer> session::ask(question& asked, milliseconds timeout) {
  const auto begun = steady::now();
  pending call{asked, begun, begun + timeout, ++last_request_};
  refusals_.clear();
  notice_loss();
  auto outcome = [&]() -> result<answer> {
    while (true) {
      if (auto connected = connect(call.deadline); !connected) return fail(std::move(connected.error()));
      if (auto fits = check_limits(asked); !fits) return fail(std::move(fits.error()));
      if (call.attempts == limits::attempts_per_call_max) {
        return fail(errc::unavailable,
                    fmt::format("the question was asked {} times (last: {}); look at the routers' logs", call.attempts,
                                last_failure_));
      }
      if (auto sent = send(call); !sent) return fail(std::move(sent.error()));
      if (!ready_) continue;
      auto got = await(call);
      if (!got) return fail(std::move(got.error()));
      if (*got) return std::move(**got);
    }
  }();
  // Whatever libzmq has not sent yet would be read after the caller has its memory back.
  if (!outcome && !call.memory.released()) drop(outcome.error().message);
  call.memory.wait_until_released();
  return outcome;
}

// Larger parts would make the transport drop the connection without a word (faults.md W4).
result<void> session::check_limits(const question& asked) const {
  if (rows_max_ != 0 && asked.rows > rows_max_) {
    return fail(errc::too_large,
                fmt::format("{} rows in one call, the router takes {}; split the rows over several calls", asked.rows,
                            rows_max_));
  }
  for (const auto& tensor : asked.tensors) {
    if (tensor_bytes_max_ == 0 || tensor.view.bytes.size() <= tensor_bytes_max_) continue;
    return fail(errc::too_large,
                fmt::format("a tensor of {} bytes, the router takes {}; split the rows over several calls",
                            tensor.view.bytes.size(), tensor_bytes_max_));
  }
  return {};
}

result<void> session::send(pending& call) {
  const auto left = std::chrono::ceil<milliseconds>(call.deadline - steady::now());
  const auto timeout_ms = static_cast<std::uint64_t>(std::max<milliseconds::rep>(left.count(), 1));
  auto name = [&](auto& body) {
    body.set_request_id(call.request_id);
    if constexpr (requires { body.set_timeout_ms(timeout_ms); }) {
      body.set_timeout_ms(timeout_ms);
      body.set_client_id(client_id_);
    }
  };
  auto& envelope = *call.asked.envelope;
  if (envelope.has_layer()) name(*envelope.mutable_layer());
  if (envelope.has_experts()) name(*envelope.mutable_experts());
  if (envelope.has_info()) name(*envelope.mutable_info());
  if (envelope.has_tokenize()) name(*envelope.mutable_tokenize());
  if (envelope.has_inputs()) name(*envelope.mutable_inputs());
  wire::outgoing_message message;
  for (auto& tensor : call.asked.tensors) {
    const auto& view = tensor.view;
    auto attached = message.attach(*tensor.field, view.type, view.shape, view.bytes, call.memory.lend());
    if (!attached) return attached;
  }
  ++call.attempts;
  auto sent = link_->send(message, envelope);
  if (sent) return {};
  if (!is_retryable(sent.error().code)) return sent;
  drop(std::move(sent.error().message));
  return {};
}

result<std::optional<answer>> session::await(pending& call) {
  while (true) {
    auto news = link_->next(call.deadline + answer_grace);
    if (std::holds_alternative<link_silent>(news)) {
      const auto waited = std::chrono::duration_cast<milliseconds>(steady::now() - call.begun);
      return fail(errc::timeout, fmt::format("{} did not answer within {} ms; try again, or with a longer timeout",
                                             link_->address(), waited.count()));
    }
    if (auto* lost = std::get_if<link_lost>(&news)) {
      drop(std::move(lost->reason));
      return std::nullopt;
    }
    answer got(std::move(std::get<wire::incoming_message>(news)));
    const auto& envelope = *got.envelope;
    if (auto parsed = got.message.parse(*got.envelope); !parsed) {
      drop(std::move(parsed.error().message));
      return std::nullopt;
    }
    if (envelope.has_failure()) {
      const auto& failure = envelope.failure();
      if (failure.request_id() == 0 || failure.request_id() == call.request_id) return on_failure(call, failure);
    }
    const auto id = envelope.has_layer()      ? envelope.layer().request_id()
                    : envelope.has_tokenize() ? envelope.tokenize().request_id()
                    : envelope.has_inputs()   ? envelope.inputs().request_id()
                                              : envelope.info().request_id();
    // Answers to questions that were given up, or a second answer: late, and nobody's any more (faults.md W13).
    if (!envelope.has_failure() && !envelope.has_generate() && id == call.request_id) return got;
  }
}

result<std::optional<answer>> session::on_failure(pending& call, const proto::Failure& failure) {
  const auto code = code_of(failure.error());
  if (code == errc::handshake_required) {
    ready_ = false;  // the router was restarted behind the same connection: greet it again
    last_failure_ = error_of(failure).message;
    return std::nullopt;
  }
  if (failure.request_id() == 0) {
    drop(error_of(failure).message);
    return std::nullopt;
  }
  if (code != errc::in_progress && code != errc::corrupt) return fail(error_of(failure));
  // Being executed for an attempt whose connection was lost, or damaged on its way: ask again. These do not count as
  // attempts that lost something, except the damaged ones.
  if (code == errc::in_progress) --call.attempts;
  last_failure_ = error_of(failure).message;
  const auto hint = milliseconds(static_cast<milliseconds::rep>(std::min<std::uint64_t>(
      failure.error().retry_after_ms(), static_cast<std::uint64_t>(limits::request_timeout_max.count()))));
  const auto until = std::min(call.deadline, steady::now() + std::max(hint, in_progress_pause));
  std::this_thread::sleep_until(until);
  if (steady::now() >= call.deadline) {
    return fail(errc::timeout, fmt::format("{}; try again, or with a longer timeout", last_failure_));
  }
  return std::nullopt;
}

}  // namespace troupe::client
