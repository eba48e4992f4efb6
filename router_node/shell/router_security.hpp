// Keys of a router: which clients its TCP socket lets in, and who it is towards hosts and coordinator. ipc needs none
// of it (the folder's mode guards those sockets). Any thread once open.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/wire/keys.hpp"
#include "common/wire/socket.hpp"

namespace troupe::router {

class router_security {
 public:
  // Reads DATA/keys/NAME.key when it is there. `is_server`: it must be there; starts the ZAP handler over
  // DATA/keys/authorized and proves that it refuses a foreign key.
  [[nodiscard]] static result<router_security> open(const std::shared_ptr<wire::context>& context,
                                                    const std::filesystem::path& data_dir, const node_id& name,
                                                    bool is_server);

  // For a socket that clients, other routers' clients and administrators connect to.
  [[nodiscard]] wire::socket_options for_clients(const std::string& address) const;
  // not_found: neither the key file nor DATA/keys/coordinator.pub names the coordinator's key; or there is no key file.
  [[nodiscard]] result<std::optional<wire::curve_client>> to_coordinator(const std::string& address) const;
  [[nodiscard]] const std::optional<wire::key_pair>& keys() const { return keys_; }
  [[nodiscard]] std::uint64_t refusals() const { return zap_ ? zap_->refusals() : 0; }
  [[nodiscard]] std::string public_key() const { return keys_ ? keys_->public_key : std::string{}; }

 private:
  std::filesystem::path folder_;
  std::optional<wire::key_pair> keys_;
  std::unique_ptr<wire::zap_handler> zap_;
};

}  // namespace troupe::router
