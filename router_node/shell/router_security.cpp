#include "router_node/shell/router_security.hpp"

#include <array>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/daemon/log.hpp"
#include "common/wire/address.hpp"

namespace troupe::router {

result<router_security> router_security::open(const std::shared_ptr<wire::context>& context,
                                              const std::filesystem::path& data_dir, const node_id& name,
                                              bool is_server) {
  router_security security;
  security.folder_ = data_dir / "keys";
  const auto file = security.folder_ / (name.value + ".key");
  std::error_code ignored;
  if (is_server || std::filesystem::exists(file, ignored)) {
    auto keys = wire::load_key_pair(file);
    if (!keys) return fail(keys.error());
    security.keys_ = std::move(*keys);
  }
  if (!is_server) return security;
  auto zap = wire::zap_handler::start(context, security.folder_ / "authorized", [](const wire::zap_refusal& refused) {
    static daemon::log_limit limit;
    if (const auto dropped = limit.admit()) {
      spdlog::warn("client at {} refused: {}{}", refused.address, refused.reason, daemon::dropped_note(*dropped));
    }
  });
  if (!zap) return fail(zap.error());
  security.zap_ = std::move(*zap);
  if (auto tested = security.zap_->self_test(); !tested) return fail(tested.error());
  return security;
}

wire::socket_options router_security::for_clients(const std::string& address) const {
  wire::socket_options options;
  if (keys_ && wire::needs_curve(address)) {
    const std::array allowed{wire::peer_role::client, wire::peer_role::admin};
    options.server = wire::curve_server{keys_->secret_key, wire::zap_domain(allowed)};
  }
  return options;
}

result<std::optional<wire::curve_client>> router_security::to_coordinator(const std::string& address) const {
  if (!wire::needs_curve(address)) return std::nullopt;
  if (!keys_) {
    return fail(errc::not_found, fmt::format("the coordinator at {} needs a key, and there is none in {}; run troupe "
                                             "keys gen",
                                             address, folder_.string()));
  }
  if (!keys_->server_key.empty()) {
    return wire::curve_client{keys_->server_key, keys_->public_key, keys_->secret_key};
  }
  auto trusted = wire::load_public_key(folder_ / "coordinator.pub");
  if (!trusted) return fail(trusted.error());
  return wire::curve_client{*trusted, keys_->public_key, keys_->secret_key};
}

}  // namespace troupe::router
