// Streams of a session: one answer token by token, from one router after another if need be.
#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "client/cpp/session.hpp"
#include "client/cpp/token_stream.hpp"
#include "common/limits.hpp"
#include "proto/client_router.pb.h"

namespace troupe::client {
namespace {

using steady = std::chrono::steady_clock;
using std::chrono::milliseconds;

// The router keeps the deadline; this is how much longer its verdict is waited for.
constexpr milliseconds answer_grace{1000};
// Routers say every second that a stream is alive. Without a word for this long its router has lost it, or hangs.
constexpr milliseconds silence_max = 10 * limits::stream_alive_interval;
// How long a stream looks for a router that takes it before its caller is told.
constexpr milliseconds homeless_max{30'000};
constexpr milliseconds in_progress_pause{100};
// How often a reader is asked whether it goes on.
constexpr milliseconds wanted_interval{100};

}  // namespace

struct session::following {
  token_stream& stream;
  const stream_reader& reader;
  time_point deadline;
  std::uint64_t request_id;
  std::uint32_t attempts{};  // without progress

  [[nodiscard]] bool is_wanted() const { return !reader.is_wanted || reader.is_wanted(); }
};

result<void> session::follow(token_stream& stream, milliseconds timeout, const stream_reader& reader) {
  following call{stream, reader, steady::now() + timeout, ++last_request_};
  refusals_.clear();
  notice_loss();
  try {
    while (call.is_wanted()) {
      if (auto found = find_router(call); !found) return found;
      if (!ready_) continue;  // not wanted any more
      if (call.attempts == limits::attempts_per_call_max) {
        return fail(errc::unavailable, fmt::format("the stream was asked for {} times without a token (last: {}); look "
                                                   "at the routers' logs",
                                                   call.attempts, last_failure_));
      }
      if (auto sent = ask_for_rest(call); !sent) return sent;
      if (!ready_) continue;
      auto is_over = listen(call);
      if (!is_over) return fail(std::move(is_over.error()));
      if (*is_over) return {};
    }
  } catch (...) {  // of the reader
    cancel(call);
    throw;
  }
  return {};
}

result<void> session::find_router(following& call) {
  const auto begun = steady::now();
  const auto until = std::min(call.deadline, begun + homeless_max);
  while (!ready_ && call.is_wanted()) {
    auto connected = connect(std::min(until, steady::now() + limits::handshake_timeout));
    if (connected) break;
    if (!is_retryable(connected.error().code)) return connected;
    if (steady::now() >= until) return fail(nobody(begun));
  }
  return {};
}

result<void> session::ask_for_rest(following& call) {
  const auto left = std::chrono::ceil<milliseconds>(call.deadline - steady::now());
  const auto timeout_ms = static_cast<std::uint64_t>(std::max<milliseconds::rep>(left.count(), 1));
  ++call.attempts;
  wire::outgoing_message message;
  auto sent = link_->send(message, call.stream.request(call.request_id, client_id_, timeout_ms));
  if (sent) return {};
  if (!is_retryable(sent.error().code)) return sent;
  drop(std::move(sent.error().message));
  return {};
}

void session::cancel(const following& call) {
  if (!ready_) return;
  proto::ClientToRouter envelope;
  envelope.mutable_cancel()->set_request_id(call.request_id);
  envelope.mutable_cancel()->set_client_id(client_id_);
  wire::outgoing_message message;
  if (auto sent = link_->send(message, envelope); !sent) drop(std::move(sent.error().message));
}

result<bool> session::listen(following& call) {
  auto heard = steady::now();
  while (true) {
    auto until = std::min(call.deadline + answer_grace, heard + silence_max);
    if (call.reader.is_wanted) until = std::min<time_point>(until, steady::now() + wanted_interval);
    auto news = link_->next(until);
    if (std::holds_alternative<link_silent>(news)) {
      if (!call.is_wanted()) {
        cancel(call);
        return true;
      }
      const auto now = steady::now();
      if (now >= call.deadline + answer_grace) {
        return fail(errc::timeout, fmt::format("{} did not end the stream in time; try again, or with a longer timeout",
                                               link_->address()));
      }
      if (now < heard + silence_max) continue;
      drop(fmt::format("{} says nothing of its streams any more", link_->address()));
      return false;
    }
    if (auto* lost = std::get_if<link_lost>(&news)) {
      drop(std::move(lost->reason));
      return false;
    }
    proto::RouterToClient envelope;
    if (auto parsed = std::get<wire::incoming_message>(news).parse(envelope); !parsed) {
      drop(std::move(parsed.error().message));
      return false;
    }
    if (envelope.has_failure()) {
      const auto id = envelope.failure().request_id();
      if (id == 0 || id == call.request_id) return on_stream_failure(call, envelope.failure());
    }
    for (const auto& event : envelope.generate().events()) {
      if (event.request_id() != call.request_id) continue;  // of a stream that was given up
      heard = steady::now();
      if (const auto next = take(call, event); next != after_event::go_on) return next == after_event::over;
    }
  }
}

session::after_event session::take(following& call, const proto::GenerateEvent& event) {
  auto tokens = call.stream.absorb(event);
  if (!tokens) {
    drop(std::move(tokens.error().message));
    return after_event::ask_again;
  }
  if (!tokens->empty()) call.attempts = 1;  // it gets on
  for (const auto& one : *tokens) {
    if (call.reader.on_token(one)) continue;
    if (!event.has_end()) cancel(call);
    return after_event::over;
  }
  return event.has_end() ? after_event::over : after_event::go_on;
}

result<bool> session::on_stream_failure(following& call, const proto::Failure& failure) {
  auto reason = error_of(failure);
  if (reason.code == errc::handshake_required) {
    ready_ = false;  // the router was restarted behind the same connection: greet it again
    last_failure_ = std::move(reason.message);
    return false;
  }
  if (failure.request_id() == 0) {
    drop(std::move(reason.message));
    return false;
  }
  const auto hint = milliseconds(static_cast<milliseconds::rep>(
      std::min<std::uint64_t>(failure.error().retry_after_ms(), static_cast<std::uint64_t>(homeless_max.count()))));
  if (reason.code == errc::in_progress) {  // for a connection whose loss the router has not noticed yet
    --call.attempts;
    rest(call, std::max(hint, in_progress_pause));
    return false;
  }
  const bool may_move = routers_.size() > 1;
  const bool goes_on =
      reason.code == errc::corrupt || (call.stream.goes_on(failure) && (may_move || call.stream.is_accepted()));
  if (!goes_on) return fail(std::move(reason));
  if (reason.code == errc::unavailable && may_move) {
    // The first move is made at once, so that the stream hardly stops.
    if (call.attempts > 1) rest(call, pause(call.attempts));
    drop(std::move(reason.message));
  } else {
    last_failure_ = std::move(reason.message);
    rest(call, std::max(hint, pause(call.attempts)));
  }
  return false;
}

void session::rest(const following& call, milliseconds time) const {
  const auto until = std::min<time_point>(call.deadline, steady::now() + time);
  while (call.is_wanted() && steady::now() < until) {
    std::this_thread::sleep_until(std::min<time_point>(until, steady::now() + wanted_interval));
  }
}

}  // namespace troupe::client
