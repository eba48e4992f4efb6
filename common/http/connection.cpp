#include "common/http/connection.hpp"

#include <sys/socket.h>

#include <algorithm>

#include <fmt/format.h>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>

#include "common/http/errors.hpp"
#include "common/http/exchange.hpp"
#include "common/http/target.hpp"

namespace troupe::http {
namespace {

namespace asio = boost::asio;
namespace beast_http = boost::beast::http;
using boost::system::error_code;

bool is_acceptable_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::ranges::all_of(id, [](char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

connection::connection(std::shared_ptr<server_core> core, asio::ip::tcp::socket socket)
    : core_(std::move(core)), socket_(std::move(socket)), timer_(core_->io), ping_timer_(core_->io) {
  ++core_->connections;
}

connection::~connection() {
  release_body();
  --core_->connections;
}

void connection::start() {
  error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  const auto remote = socket_.remote_endpoint(ignored);
  peer_ = fmt::format("{}:{}", remote.address().to_string(), remote.port());
  await_request();
}

void connection::close() {
  const auto until_return = std::move(alive_);
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
  end_stream();
  if (auto waiting = exchange_.lock()) waiting->client_is_gone();
  exchange_.reset();
}

void connection::close_when_idle() {
  keep_alive_ = false;
  if (!in_progress_) close();
}

void connection::arm(std::chrono::milliseconds time) {
  timed_out_ = false;
  timer_.expires_after(time);
  timer_.async_wait([weak = weak_from_this()](error_code failure) {
    auto self = weak.lock();
    if (failure || !self || self->timer_.expiry() > std::chrono::steady_clock::now()) return;
    self->timed_out_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void connection::release_body() {
  core_->body_bytes -= reserved_bytes_;
  reserved_bytes_ = 0;
}

// The first byte may take the idle time, the header behind it only the header time: a silent client costs little, and
// one that sends its header byte by byte is cut off.
void connection::await_request() {
  in_progress_ = false;
  parser_.reset();
  request_ = {};
  id_.clear();
  if (core_->stopping) return close();
  if (buffer_.size() > 0) return read_header();
  arm(number_ == 0 ? core_->options.header_timeout : core_->options.idle_timeout);
  socket_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code failure, std::size_t n) {
    if (failure) return self->close();
    self->buffer_.commit(n);
    self->read_header();
  });
}

void connection::read_header() {
  in_progress_ = true;
  keep_alive_ = false;
  head_only_ = false;
  ++number_;
  arm(core_->options.header_timeout);
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(limits::http_header_bytes_max));
  parser_->body_limit(boost::none);  // set in prepare_body, when the route is known
  beast_http::async_read_header(
      socket_, buffer_, *parser_,
      [self = shared_from_this()](error_code failure, std::size_t) { self->on_header(failure); });
}

void connection::fail(error_code failure) {
  using beast_http::error;
  if (timed_out_) return send(error_response(408, "request_timeout", "the request did not arrive in time"));
  if (failure == error::header_limit || failure == error::buffer_overflow) {
    return send(error_response(431, "header_too_large",
                               fmt::format("the header is larger than {} bytes", limits::http_header_bytes_max)));
  }
  if (failure == error::body_limit) {
    return send(error_response(
        413, "too_large", fmt::format("the body is larger than {} bytes; split the request", route_->body_bytes_max)));
  }
  if (failure == error::end_of_stream || failure == error::partial_message ||
      failure.category() != beast_http::make_error_code(error::bad_method).category()) {
    return close();
  }
  send(error_response(400, "invalid_request", "malformed HTTP request: " + failure.message()));
}

void connection::on_header(error_code failure) {
  if (failure) return fail(failure);
  if (parser_->is_done()) keep_alive_ = parser_->keep_alive();  // no body left behind by an early answer
  const auto& incoming = parser_->get();
  for (const auto& field : incoming) {
    request_.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  }
  const auto* sent_id = find_header(request_.headers, "X-Request-Id");
  request_.id = sent_id != nullptr && is_acceptable_id(*sent_id)
                    ? *sent_id
                    : fmt::format("{}-{}", core_->id_prefix, ++core_->requests_numbered);
  id_ = request_.id;
  request_.method = std::string(incoming.method_string());
  if (request_.method == "HEAD") {
    head_only_ = true;
    request_.method = "GET";
  }
  const auto target = std::string_view(incoming.target().data(), incoming.target().size());
  if (!split_target(target, request_.path, request_.query)) {
    return send(error_response(400, "invalid_request", "the request target is malformed"));
  }
  request_.client = peer_;
  if (const auto* chosen = find_route(request_)) prepare_body(*chosen);
}

// Answers 404 or 405 itself and returns nullptr then.
const route* connection::find_route(request& incoming) {
  std::string allowed;
  for (const auto& candidate : core_->routes) {
    auto parameter = match_path(candidate.path, incoming.path);
    if (!parameter) continue;
    if (candidate.method == incoming.method) {
      incoming.parameter = std::move(*parameter);
      return &candidate;
    }
    allowed += (allowed.empty() ? "" : ", ") + candidate.method;
  }
  if (allowed.empty()) {
    send(error_response(404, "not_found", fmt::format("no such path: {}", incoming.path)));
  } else {
    auto answer = error_response(405, "method_not_allowed",
                                 fmt::format("{} does not allow {}; use {}", incoming.path, incoming.method, allowed));
    answer.headers.emplace_back("Allow", allowed);
    send(std::move(answer));
  }
  return nullptr;
}

void connection::prepare_body(const route& chosen) {
  route_ = &chosen;
  const auto length = parser_->content_length();
  if (length && *length > chosen.body_bytes_max) {
    return send(error_response(413, "too_large",
                               fmt::format("the body has {} bytes, {} accepts {}; split the request", *length,
                                           request_.path, chosen.body_bytes_max)));
  }
  parser_->body_limit(chosen.body_bytes_max);
  if (!reserve_body()) {
    return send(error_response(429, "overloaded", "too many request bodies are being received; retry later"));
  }
  body_deadline_ = std::chrono::steady_clock::now() + limits::http_body_timeout;
  const auto* expect = find_header(request_.headers, "Expect");
  if (expect == nullptr || !equal_ignoring_case(*expect, "100-continue") || parser_->is_done()) return read_body();
  static constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(socket_, asio::buffer(go_on), [self = shared_from_this()](error_code failure, std::size_t) {
    if (failure) return self->fail(failure);
    self->read_body();
  });
}

// Takes the body's bytes from the server's budget; a chunked body may become as large as the route allows.
bool connection::reserve_body() {
  if (parser_->is_done()) return true;
  const auto wanted = parser_->content_length() ? *parser_->content_length() : route_->body_bytes_max;
  if (core_->body_bytes + wanted > limits::http_body_bytes_total_max) return false;
  core_->body_bytes += wanted;
  reserved_bytes_ = wanted;
  return true;
}

void connection::read_body() {
  if (parser_->is_done()) return on_body({});
  // Each piece may take the header time, all of them together the body time.
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(body_deadline_ - std::chrono::steady_clock::now());
  arm(std::min<std::chrono::milliseconds>(core_->options.header_timeout, std::max(left, std::chrono::milliseconds(0))));
  beast_http::async_read_some(socket_, buffer_, *parser_, [self = shared_from_this()](error_code failure, std::size_t) {
    if (failure) return self->fail(failure);
    self->read_body();
  });
}

void connection::on_body(error_code failure) {
  if (failure) return fail(failure);
  timer_.cancel();
  keep_alive_ = parser_->keep_alive() && !core_->stopping;
  request_.body = std::move(parser_->get().body());
  dispatch();
}

void connection::dispatch() {
  handling_ = true;
  alive_ = shared_from_this();
  auto pending = std::make_shared<pending_exchange>(core_, weak_from_this(), number_);
  exchange_ = pending;
  watch_client();
  try {
    route_->run(std::move(request_), pending);
  } catch (const std::exception& e) {
    pending->reply(error_response(500, "internal", fmt::format("the request could not be handled: {}", e.what())));
  }
}

// Nothing is expected from the client while its request is handled: readable means gone, or the next request already.
void connection::watch_client() {
  socket_.async_wait(asio::ip::tcp::socket::wait_read, [weak = weak_from_this(), number = number_](error_code failure) {
    auto self = weak.lock();
    if (failure || !self || self->number_ != number || !self->handling_) return;
    char byte = 0;
    const auto seen = ::recv(self->socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (seen == 0 || (seen < 0 && errno != EAGAIN && errno != EINTR)) self->close();
  });
}

void connection::finish(std::uint64_t number, response answer) {
  if (!is_handling(number)) return;
  const auto until_return = std::move(alive_);
  handling_ = false;
  end_stream();
  exchange_.reset();
  send(std::move(answer));
}

bool connection::is_handling(std::uint64_t number) const { return number == number_ && handling_ && socket_.is_open(); }

void connection::make_head(unsigned status, const std::string& content_type, const header_list& headers) {
  const auto version = parser_ && parser_->is_header_done() ? parser_->get().version() : 11U;
  outgoing_.emplace(static_cast<beast_http::status>(status), version);
  outgoing_->set(beast_http::field::server, core_->options.name);
  outgoing_->set(beast_http::field::content_type, content_type);
  if (!id_.empty()) outgoing_->set("X-Request-Id", id_);
  for (const auto& [name, value] : headers) outgoing_->set(name, value);
  outgoing_->keep_alive(keep_alive_ && !core_->stopping);
}

void connection::send(response answer) {
  if (!socket_.is_open()) return;
  release_body();
  make_head(answer.status, answer.content_type, answer.headers);
  const auto bytes = answer.body.size();
  if (!head_only_) outgoing_->body() = std::move(answer.body);
  outgoing_->content_length(bytes);
  arm(limits::http_write_timeout);
  auto on_sent = [self = shared_from_this()](error_code failure, std::size_t) {
    const bool again = self->outgoing_->keep_alive();
    self->outgoing_.reset();
    if (failure) return self->close();
    again ? self->await_request() : self->linger();
  };
  beast_http::async_write(socket_, *outgoing_, std::move(on_sent));
}

// Closing with unread bytes makes the kernel send a reset that can overtake the answer: read on for a moment.
void connection::linger() {
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  arm(limits::http_linger_timeout);
  body_deadline_ = std::chrono::steady_clock::now() + limits::http_linger_timeout;
  read_and_discard();
}

void connection::read_and_discard() {
  buffer_.clear();
  socket_.async_read_some(buffer_.prepare(64 * limits::kib),
                          [self = shared_from_this()](error_code failure, std::size_t) {
                            if (failure || std::chrono::steady_clock::now() > self->body_deadline_)
                              return self->close();
                            self->read_and_discard();
                          });
}

}  // namespace troupe::http
