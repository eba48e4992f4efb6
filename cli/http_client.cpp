#include "cli/http_client.hpp"

#include <fmt/format.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "common/limits.hpp"

namespace troupe::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using error_code = boost::system::error_code;

constexpr std::chrono::milliseconds interrupt_interval{100};

// One request and its answer, step by step, each of which can be given up.
class exchange {
 public:
  exchange(const std::function<bool()>& is_wanted, std::chrono::milliseconds timeout)
      : is_wanted_(is_wanted), timeout_(timeout) {}

  // @returns the status; 0: given up
  error_code run(const http_url& url, const beast::http::request<beast::http::string_body>& request,
                 const std::function<bool(std::string_view)>& on_body, unsigned& status) {
    stream_.expires_after(timeout_);
    asio::ip::tcp::resolver resolver(io_);
    asio::ip::tcp::resolver::results_type places;
    auto trouble = wait([&](auto done) {
      resolver.async_resolve(url.host, url.port, [&places, done](error_code code, const auto& found) {
        places = found;
        done(code);
      });
    });
    if (trouble) return trouble;
    trouble =
        wait([&](auto done) { stream_.async_connect(places, [done](error_code code, const auto&) { done(code); }); });
    if (trouble) return trouble;
    trouble = wait([&](auto done) {
      beast::http::async_write(stream_, request, [done](error_code code, std::size_t) { done(code); });
    });
    return trouble ? trouble : read(on_body, status);
  }

  [[nodiscard]] bool was_given_up() const { return given_up_; }

 private:
  error_code read(const std::function<bool(std::string_view)>& on_body, unsigned& status) {
    beast::flat_buffer buffer;
    beast::http::response_parser<beast::http::buffer_body> parser;
    parser.body_limit(boost::none);
    auto trouble = wait([&](auto done) {
      beast::http::async_read_header(stream_, buffer, parser, [done](error_code code, std::size_t) { done(code); });
    });
    std::array<char, 4096> piece;
    while (!trouble && !parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      trouble = wait([&](auto done) {
        beast::http::async_read_some(stream_, buffer, parser, [done](error_code code, std::size_t) { done(code); });
      });
      if (trouble == beast::http::error::need_buffer) trouble = {};
      const auto bytes = piece.size() - parser.get().body().size;
      if (!trouble && !on_body({piece.data(), bytes})) given_up_ = true;
      if (given_up_) return {};
    }
    status = parser.get().result_int();
    return trouble;
  }

  // start(done): begins a step that calls done(code) in the end.
  template <class Start>
  error_code wait(Start start) {
    bool is_over = false;
    error_code outcome;
    start([&is_over, &outcome](error_code code) {
      outcome = code;
      is_over = true;
    });
    while (!is_over) {
      io_.restart();
      io_.run_for(interrupt_interval);
      if (is_over || given_up_ || is_wanted_()) continue;
      given_up_ = true;
      stream_.close();  // ends the step
    }
    return given_up_ ? asio::error::make_error_code(asio::error::operation_aborted) : outcome;
  }

  const std::function<bool()>& is_wanted_;
  std::chrono::milliseconds timeout_;
  asio::io_context io_{1};
  beast::tcp_stream stream_{io_};
  bool given_up_{false};
};

beast::http::request<beast::http::string_body> request_to(const http_url& url, beast::http::verb verb,
                                                          const std::string& body) {
  beast::http::request<beast::http::string_body> request{verb, url.target, 11};
  request.set(beast::http::field::host, url.host + ":" + url.port);
  request.set(beast::http::field::user_agent, "troupe");
  request.set(beast::http::field::connection, "close");
  if (verb != beast::http::verb::post) return request;
  request.set(beast::http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  return request;
}

error describe(const std::string& url, const error_code& code) {
  const bool is_late = code == beast::error::timeout;
  return {is_late ? errc::timeout : errc::unavailable,
          fmt::format("{} does not answer: {}; is the process running?", url, code.message())};
}

}  // namespace

result<http_url> http_url::parse(std::string_view text) {
  constexpr std::string_view scheme = "http://";
  const auto wrong = [&, all = std::string{text}] {
    return fail(errc::invalid_request, fmt::format("{} is no address of a router; use http://HOST:PORT", all));
  };
  if (!text.starts_with(scheme)) return wrong();
  text.remove_prefix(scheme.size());
  http_url url;
  if (const auto path = text.find('/'); path != std::string_view::npos) {
    url.target = text.substr(path);
    text = text.substr(0, path);
  }
  std::size_t host_end = text.find(':');
  if (text.starts_with('[')) {
    host_end = text.find(']');
    if (host_end == std::string_view::npos) return wrong();
    url.host = text.substr(1, host_end - 1);
    text.remove_prefix(host_end + 1);
  } else {
    url.host = text.substr(0, host_end);
    text.remove_prefix(std::min(host_end, text.size()));
  }
  if (url.host.empty()) return wrong();
  if (text.empty()) return url;
  url.port = text.substr(1);
  const bool is_number = url.port.find_first_not_of("0123456789") == std::string::npos;
  if (text.front() != ':' || url.port.empty() || url.port.size() > 5 || !is_number) return wrong();
  return url;
}

result<http_answer> http_get(const std::string& url, std::chrono::milliseconds timeout) {
  const auto where = http_url::parse(url);
  if (!where) return fail(where.error());
  http_answer answer;
  bool is_too_long = false;
  const std::function<bool()> always = [] { return true; };
  exchange one(always, timeout);
  const auto code = one.run(
      *where, request_to(*where, beast::http::verb::get, {}),
      [&](std::string_view bytes) {
        is_too_long = answer.body.size() + bytes.size() > limits::http_json_body_bytes_max;
        if (!is_too_long) answer.body += bytes;
        return !is_too_long;
      },
      answer.status);
  if (code) return fail(describe(url, code));
  if (is_too_long) {
    return fail(errc::too_large,
                fmt::format("{} answers with more than {} bytes", url, limits::http_json_body_bytes_max));
  }
  return answer;
}

result<unsigned> http_post(const std::string& url, const std::string& json,
                           const std::function<bool(std::string_view)>& on_body, const std::function<bool()>& is_wanted,
                           std::chrono::milliseconds timeout) {
  const auto where = http_url::parse(url);
  if (!where) return fail(where.error());
  unsigned status = 0;
  exchange one(is_wanted, timeout);
  const auto code = one.run(*where, request_to(*where, beast::http::verb::post, json), on_body, status);
  if (code && !one.was_given_up()) return fail(describe(url, code));
  return status;
}

}  // namespace troupe::cli
