// Whom to answer over ZeroMQ, and the way back to them.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

#include "common/error.hpp"
#include "common/wire/checksum.hpp"

namespace troupe::proto {
class RouterToClient;
}

namespace troupe::router {

struct client_address {
  std::size_t socket{};
  std::string routing_id;
  wire::checksum_kind kind{};
  friend auto operator<=>(const client_address&, const client_address&) = default;
};

// Thread rule: the router's thread.
class client_door {
 public:
  virtual ~client_door() = default;
  // unavailable: the client is gone. overloaded: it does not read, and its queue is full.
  virtual result<void> send(const client_address& to, const proto::RouterToClient& envelope) = 0;
  // `number`: the request's id, chosen by the client; 0: none.
  virtual void send_failure(const client_address& to, std::uint64_t number, const error& reason) = 0;
};

}  // namespace troupe::router
