#include "common/http/probes.hpp"

#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/http/errors.hpp"
#include "common/limits.hpp"

namespace troupe::http {
namespace {

constexpr auto plain_text = "text/plain; charset=utf-8";

bool all_ok(const std::vector<check>& checks) {
  return std::ranges::all_of(checks, [](const check& c) { return c.ok; });
}

response readyz(const std::vector<check>& checks, bool verbose) {
  const bool ok = all_ok(checks);
  if (ok && !verbose) return {.content_type = plain_text, .body = "ok\n"};
  std::string lines;
  for (const auto& c : checks) {
    if (c.ok) {
      lines += fmt::format("[+]{} ok{}{}\n", c.name, c.detail.empty() ? "" : ": ", c.detail);
    } else {
      lines += fmt::format("[-]{} failed: {}\n", c.name, c.detail);
    }
  }
  lines += ok ? "readyz check passed\n" : "readyz check failed\n";
  return {.status = ok ? 200U : 503U, .content_type = plain_text, .body = std::move(lines)};
}

response health(const std::vector<check>& checks) {
  if (all_ok(checks)) return {.body = R"({"status":"ok"})"};
  std::string reasons;
  for (const auto& c : checks) {
    if (!c.ok) reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", c.name, c.detail);
  }
  return error_response(503, "unavailable", "not ready: " + reasons);
}

response version(const build_info& build) {
  return {.body = nlohmann::json{{"version", build.version}, {"commit", build.commit}, {"backend", build.backend}}.dump(
              -1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

}  // namespace

std::vector<route> probe_routes(probe_options options) {
  auto shared = std::make_shared<const probe_options>(std::move(options));
  auto get = [&shared](std::string path, auto answer) {
    return route{"GET", std::move(path), 0, [shared, answer](const request& r, const std::shared_ptr<exchange>& e) {
                   e->reply(answer(*shared, r));
                 }};
  };
  using options_t = probe_options;
  return {
      get("/livez",
          [](const options_t&, const request&) { return response{.content_type = plain_text, .body = "ok\n"}; }),
      get("/readyz",
          [](const options_t& o, const request& r) { return readyz(o.ready(), has_query_key(r.query, "verbose")); }),
      get("/health", [](const options_t& o, const request&) { return health(o.ready()); }),
      get("/version", [](const options_t& o, const request&) { return version(o.build); }),
      get("/metrics",
          [](const options_t& o, const request&) {
            return response{.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = o.metrics->text()};
          }),
  };
}

}  // namespace troupe::http
