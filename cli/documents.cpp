#include "cli/documents.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "cli/terminal.hpp"
#include "troupe/client.hpp"

namespace troupe::cli {
namespace {

constexpr std::chrono::milliseconds router_timeout{5000};

std::string ask_router(client::cluster& router, const query& what) {
  switch (what.kind) {
    case query_kind::nodes:
      return router.nodes(router_timeout);
    case query_kind::experts:
      return router.list_experts(what.layer.empty() ? std::nullopt : std::optional<client::layer_name>{what.layer},
                                 router_timeout);
    default:
      return router.status(router_timeout);
  }
}

result<json> fetch_from_router(const session& s, const query& what) {
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  try {
    client::connect_options options;
    options.data_dir = *data_dir;
    options.timeout = router_timeout;
    auto router = client::cluster::connect(options);
    auto document = json::parse(ask_router(router, what), nullptr, false);
    if (document.is_discarded())
      return fail(errc::corrupt, "the router's answer is not JSON; are both of one version?");
    return document;
  } catch (const client::error& problem) {
    return fail(static_cast<errc>(problem.code()), problem.what());
  }
}

}  // namespace

result<json> fetch_document(const session& s, const query& what) {
  auto coordinator = s.coordinator();
  auto answer = coordinator ? coordinator->ask(what) : result<json>{fail(coordinator.error())};
  const bool routers_know =
      what.kind == query_kind::status || what.kind == query_kind::nodes || what.kind == query_kind::experts;
  if (answer || answer.error().code != errc::unavailable || !routers_know) return answer;
  auto known = fetch_from_router(s, what);
  if (!known) return answer;
  print_note(fmt::format("note: {}; this is what a router knows", answer.error().message));
  return known;
}

}  // namespace troupe::cli
