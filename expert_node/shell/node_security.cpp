#include "expert_node/shell/node_security.hpp"

#include <array>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/wire/address.hpp"

namespace troupe::expert {

result<node_security> node_security::open(const std::shared_ptr<wire::context>& context,
                                          const std::filesystem::path& data_dir, const node_id& name, bool needed) {
  node_security security;
  security.folder_ = data_dir / "keys";
  if (!needed) return security;
  auto keys = wire::load_key_pair(security.folder_ / (name.value + ".key"));
  if (!keys) return fail(keys.error());
  security.keys_ = std::move(*keys);
  auto zap = wire::zap_handler::start(context, security.folder_ / "authorized", [](const wire::zap_refusal& refused) {
    spdlog::warn("peer at {} refused: {}", refused.address, refused.reason);
  });
  if (!zap) return fail(zap.error());
  security.zap_ = std::move(*zap);
  if (auto tested = security.zap_->self_test(); !tested) return fail(tested.error());
  return security;
}

wire::socket_options node_security::for_role(const std::string& address, wire::peer_role role) const {
  wire::socket_options options;
  if (keys_ && wire::needs_curve(address)) {
    options.server = wire::curve_server{keys_->secret_key, wire::zap_domain(std::array{role})};
  }
  return options;
}

wire::socket_options node_security::for_routers(const std::string& address) const {
  return for_role(address, wire::peer_role::router);
}

wire::socket_options node_security::for_expert_nodes(const std::string& address) const {
  return for_role(address, wire::peer_role::expert);
}

result<std::optional<wire::curve_client>> node_security::to_coordinator(const std::string& address) const {
  if (!keys_ || !wire::needs_curve(address)) return std::nullopt;
  if (!keys_->server_key.empty()) {
    return wire::curve_client{keys_->server_key, keys_->public_key, keys_->secret_key};
  }
  auto trusted = wire::load_public_key(folder_ / "coordinator.pub");
  if (!trusted) return fail(trusted.error());
  return wire::curve_client{*trusted, keys_->public_key, keys_->secret_key};
}

std::optional<wire::curve_client> node_security::to_peer(const peer_source& peer) const {
  if (!keys_ || peer.public_key.empty()) return std::nullopt;
  return wire::curve_client{peer.public_key, keys_->public_key, keys_->secret_key};
}

}  // namespace troupe::expert
