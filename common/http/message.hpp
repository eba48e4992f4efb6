// One HTTP request and its answer as plain values; no Beast type in here.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
};

// Is `name` among the query's keys ("verbose", "verbose=1", "a=2&verbose")?
[[nodiscard]] bool has_query_key(std::string_view query, std::string_view name);

struct response {
  unsigned status{200};
  std::string content_type{"application/json"};
  std::string body;
  header_list headers{};
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
  // `on_gone` is called once, on the server's thread, if the client goes away before the answer.
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
