// HTTP/1.1 server with a thread of its own, every size and time bounded by common/limits.hpp.
//
// First file to read of common/http. Connections are kept alive; a client that goes away cancels its request.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/http/message.hpp"
#include "common/limits.hpp"

namespace troupe::http {

struct server_options {
  std::string address{"127.0.0.1:0"};  // host:port, [ipv6]:port; port 0 picks a free one
  std::string name{"troupe"};          // of the process, for the Server header
  std::size_t connections_max{limits::http_connections_max};
  std::chrono::milliseconds header_timeout{limits::http_header_timeout};
  std::chrono::milliseconds idle_timeout{limits::http_idle_timeout};
};

// Thread rule: `start` and `stop` from one thread; the rest from any.
class server {
 public:
  // conflict when the port is in use, invalid_request when the address cannot be read or resolved.
  [[nodiscard]] static result<std::unique_ptr<server>> start(const server_options& options, std::vector<route> routes);

  server(const server&) = delete;
  server& operator=(const server&) = delete;
  ~server();  // stop(0ms)

  // As bound: "127.0.0.1:34567".
  [[nodiscard]] const std::string& address() const;
  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] std::string url() const { return "http://" + address(); }

  // Refuses new connections, lets requests in progress finish for `grace`, then closes everything. Idempotent.
  void stop(std::chrono::milliseconds grace);

 private:
  struct state;
  explicit server(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::http
