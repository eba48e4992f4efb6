// The routes that every daemon has: /livez, /readyz, /health, /version, /metrics.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/http/message.hpp"
#include "common/http/metrics.hpp"

namespace troupe::http {

// One condition of readiness, e.g. {"coordinator", false, "not connected to tcp://..."}.
struct check {
  std::string name;
  bool ok{};
  std::string detail{};
};

struct build_info {
  std::string version;
  std::string commit;   // empty: unknown
  std::string backend;  // "cpu", "cuda"
};

struct probe_options {
  build_info build;
  std::function<std::vector<check>()> ready;  // called on the server's thread: must not block
  const metrics_registry* metrics{};          // outlives the server
};

// /livez answers 200 as long as the server's thread runs. /readyz answers 200 or 503; with ?verbose, and always when it
// fails, one line per check: "[+]name ok", "[-]name failed: detail". /health is the same as a JSON object.
[[nodiscard]] std::vector<route> probe_routes(probe_options options);

}  // namespace troupe::http
