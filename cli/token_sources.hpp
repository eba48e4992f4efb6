// The two doors of a cluster for `troupe bench generate`: ZeroMQ through the C++ client, HTTP with server-sent events.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "cli/generate_bench.hpp"
#include "common/error.hpp"

namespace troupe::cli {

[[nodiscard]] result<std::unique_ptr<token_source>> make_client_source(const std::filesystem::path& data_dir);
// `url`: of a router's HTTP server, e.g. http://127.0.0.1:8000. `model`: what /v1/models calls the model.
[[nodiscard]] result<std::unique_ptr<token_source>> make_http_source(const std::string& url, const std::string& model);

// The payloads of server-sent events ("data: ..."), one by one, from bytes that come in any pieces. Pure.
class event_reader {
 public:
  // Calls `on_data` for each event that became complete. False: an event is longer than a megabyte.
  bool push(std::string_view bytes, const std::function<void(std::string_view)>& on_data);

 private:
  std::string line_;
};

}  // namespace troupe::cli
