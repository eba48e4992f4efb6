// Addresses that belong together: who listens at one has siblings beside it (docs/architecture.md, "sockets").
// Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::wire {

enum class sibling : std::uint8_t {
  heartbeat,  // of a coordinator's control address: port + 1, or *.control.ipc -> *.heartbeat.ipc
  admin,      // of a coordinator's control address: port + 2, or *.control.ipc -> *.admin.ipc
  peer,       // of an expert node's data address:   port + 1, or *.data.ipc -> *.peer.ipc
};

// invalid_request when the address is neither tcp://HOST:PORT (port 1 to 65533) nor an ipc path with its usual ending.
[[nodiscard]] result<std::string> sibling_address(std::string_view address, sibling which);

// Is the address reachable from other machines? ipc and loopback are not.
[[nodiscard]] bool is_remote(std::string_view address);
// Does it go over TCP, so that CURVE is needed?
[[nodiscard]] bool needs_curve(std::string_view address);

}  // namespace troupe::wire
