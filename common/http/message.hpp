// One HTTP request and its answer as plain values; no Beast type in here.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/limits.hpp"

namespace troupe::http {

using header_list = std::vector<std::pair<std::string, std::string>>;

// nullptr when absent. Names are compared without regard to case.
[[nodiscard]] const std::string* find_header(const header_list& headers, std::string_view name);

struct request {
  std::string method;
  std::string path;       // decoded, without the query
  std::string query;      // behind '?', undecoded
  std::string parameter;  // what stands for the {...} of the route; decoded
  std::string id;         // X-Request-Id as sent, or one made by the server
  header_list headers;
  std::string body;
  std::string client;  // who asks, for limits per client: the name of its API key, else its address and port
};

// Is `name` among the query's keys ("verbose", "verbose=1", "a=2&verbose")?
[[nodiscard]] bool has_query_key(std::string_view query, std::string_view name);

struct response {
  unsigned status{200};
  std::string content_type{"application/json"};
  std::string body;
  header_list headers{};
};

// An answer that is sent piece by piece: chunked, or up to the end of the connection for HTTP/1.0.
struct stream_head {
  std::string content_type{"text/event-stream"};
  header_list headers{};
  // Sent whenever nothing else was sent for `ping_interval`; empty: nothing.
  std::string ping{};
  std::chrono::milliseconds ping_interval{limits::http_ping_interval};
};

// Thread rule: any thread; pieces are sent in the order in which write() was called. Dropped without finish(), the
// connection is closed in the middle, which the client notices. The head goes out with the first piece or ping.
class stream {
 public:
  virtual ~stream() = default;
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;

  // False when nothing can be sent any more: the client has gone, or reads so slowly that
  // limits::http_stream_buffer_bytes_max wait for it already; it is cut off then, which cancels the exchange.
  virtual bool write(std::string_view piece) = 0;
  virtual void finish() = 0;
  // Another answer instead of the stream, as long as nothing of it was sent. False: it is too late for that.
  virtual bool reply_instead(response answer) = 0;

 protected:
  stream() = default;
};

// One request that waits for its answer. Thread rule: any thread. Dropped without an answer, the client gets a 500.
class exchange {
 public:
  virtual ~exchange() = default;
  exchange(const exchange&) = delete;
  exchange& operator=(const exchange&) = delete;

  // The first answer counts; later ones are ignored, as is an answer to a client that has gone.
  virtual void reply(response answer) = 0;
  // The same for an answer that is work to make (a large body): `make` runs on the server's thread.
  virtual void reply_with(std::function<response()> make) = 0;
  // Instead of reply(). As with it, the first call of any of them counts: a later stream sends nothing.
  [[nodiscard]] virtual std::shared_ptr<stream> begin_stream(stream_head head) = 0;
  // `on_gone` is called once, on the server's thread, if the client goes away before the answer or the end of a stream.
  // At once (on the caller's thread) when it has gone already. Replaces an earlier callback.
  virtual void on_cancel(std::function<void()> on_gone) = 0;

 protected:
  exchange() = default;
};

// Called on the server's thread: must not block. May answer later and from elsewhere.
using handler = std::function<void(request, std::shared_ptr<exchange>)>;

struct route {
  std::string method;  // "GET" also answers HEAD
  std::string path;    // "/livez", or with one parameter at its end: "/v1/layers/{layer}"
  std::size_t body_bytes_max{};
  handler run;
};

}  // namespace troupe::http
