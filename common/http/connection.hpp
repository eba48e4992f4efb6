// Internal to common/http: one client connection of the server. Everything runs on the server's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/http/message.hpp"
#include "common/http/server.hpp"

namespace troupe::http {

class connection;
class pending_exchange;
class stream_buffer;

// What all connections share. Owned by the server; lives as long as the last exchange.
struct server_core {
  server_options options;
  std::vector<route> routes;
  boost::asio::io_context io{1};
  std::size_t connections{};   // open ones
  std::uint64_t body_bytes{};  // of request bodies being received or handled
  std::uint64_t requests_numbered{};
  std::string id_prefix;  // of the request ids that the server makes
  bool stopping{};
  std::vector<std::weak_ptr<connection>> open;
};

class connection : public std::enable_shared_from_this<connection> {
 public:
  connection(std::shared_ptr<server_core> core, boost::asio::ip::tcp::socket socket);
  ~connection();
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;

  void start();
  void close();
  // Closes at once when nothing is in progress, else behind the answer.
  void close_when_idle();
  // The answer to request number `number` of this connection; ignored when that one is over.
  void finish(std::uint64_t number, response answer);
  // Is request number `number` with its handler, and its client there?
  [[nodiscard]] bool is_handling(std::uint64_t number) const;
  // The answer to the current request comes piece by piece.
  void begin_stream(std::shared_ptr<stream_buffer> buffer);
  // Sends what waits in the stream's buffer.
  void pump_stream();

 private:
  using request_parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using outgoing = boost::beast::http::response<boost::beast::http::string_body>;

  void await_request();
  void read_header();
  void on_header(boost::system::error_code failure);
  const route* find_route(request& incoming);
  void prepare_body(const route& chosen);
  bool reserve_body();
  void read_body();
  void on_body(boost::system::error_code failure);
  void dispatch();
  void watch_client();
  void fail(boost::system::error_code failure);
  void make_head(unsigned status, const std::string& content_type, const header_list& headers);
  void send(response answer);
  void begin_chunks();
  void write_stream(bool is_last);
  void on_stream_end();
  void end_stream();
  void arm_ping();
  void linger();
  void read_and_discard();
  void arm(std::chrono::milliseconds time);
  void release_body();

  std::shared_ptr<server_core> core_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<request_parser> parser_;
  std::optional<outgoing> outgoing_;
  // The answer that is being streamed: what the handler has written, what the socket is writing, and the pings.
  std::shared_ptr<stream_buffer> stream_;
  std::string stream_bytes_;
  boost::asio::steady_timer ping_timer_;
  bool stream_writes_{};
  bool stream_began_{};
  std::string peer_;  // address and port
  request request_;
  std::string id_;  // request_.id, kept for the answer
  const route* route_{};
  std::weak_ptr<pending_exchange> exchange_;
  std::shared_ptr<connection> alive_;  // itself, while a handler has the request and no socket operation holds it
  std::uint64_t number_{};             // of the current request; older answers are ignored
  std::uint64_t reserved_bytes_{};     // this connection's part of server_core::body_bytes
  std::chrono::steady_clock::time_point body_deadline_;
  bool timed_out_{};
  bool in_progress_{};  // a request's first byte is here and its answer is not yet sent
  bool handling_{};     // the handler has the request
  bool keep_alive_{};
  bool head_only_{};
};

}  // namespace troupe::http
