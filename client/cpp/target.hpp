// Where the cluster is and which keys open it: what the caller said, the context that `troupe up` wrote, a key file.
// Reads files; no sockets.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/wire/socket.hpp"

namespace troupe::client {

struct connect_options;

struct router_address {
  std::string address;
  std::optional<wire::curve_client> keys;  // for TCP
};

struct target {
  std::vector<router_address> routers;  // tried in this order
  std::string cluster_id;               // empty: not known yet
};

// invalid_request, permission_denied (a key that others can read), unavailable (no cluster is known there).
[[nodiscard]] result<target> resolve(const connect_options& options);

}  // namespace troupe::client
