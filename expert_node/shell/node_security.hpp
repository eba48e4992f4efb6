// Keys of an expert node: which peers its TCP sockets let in, and whom it trusts. ipc needs none of it (the folder's
// mode guards those sockets). Any thread once open.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/wire/keys.hpp"
#include "common/wire/socket.hpp"
#include "expert_node/shell/host_ports.hpp"

namespace troupe::expert {

class node_security {
 public:
  // With `needed`: reads DATA/keys/NAME.key and starts the ZAP handler over DATA/keys/authorized, and proves that it
  // refuses a foreign key. Without: every answer below is "no keys".
  [[nodiscard]] static result<node_security> open(const std::shared_ptr<wire::context>& context,
                                                  const std::filesystem::path& data_dir, const node_id& name,
                                                  bool needed);

  [[nodiscard]] wire::socket_options for_routers(const std::string& address) const;
  [[nodiscard]] wire::socket_options for_expert_nodes(const std::string& address) const;
  // not_found: neither the node's key file nor DATA/keys/coordinator.pub names the coordinator's key.
  [[nodiscard]] result<std::optional<wire::curve_client>> to_coordinator(const std::string& address) const;
  [[nodiscard]] std::optional<wire::curve_client> to_peer(const peer_source& peer) const;
  [[nodiscard]] std::string public_key() const { return keys_ ? keys_->public_key : std::string{}; }
  [[nodiscard]] std::uint64_t refusals() const { return zap_ ? zap_->refusals() : 0; }

 private:
  [[nodiscard]] wire::socket_options for_role(const std::string& address, wire::peer_role role) const;

  std::filesystem::path folder_;
  std::optional<wire::key_pair> keys_;
  std::unique_ptr<wire::zap_handler> zap_;
};

}  // namespace troupe::expert
