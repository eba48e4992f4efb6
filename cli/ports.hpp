// TCP ports of this machine: parse an address, find free ports, and say who has one that is taken. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"

namespace troupe::cli {

struct host_port {
  std::string host;
  std::uint16_t port{};
  [[nodiscard]] std::string text() const { return host + ":" + std::to_string(port); }
};

// "127.0.0.1:8080", "localhost:0", "[::1]:8080", ":8080" (loopback). invalid_request names what is wrong.
[[nodiscard]] result<host_port> parse_host_port(std::string_view text);

// `count` neighbouring ports P, P+1, ... that nothing listens on. They lie below the range from which the system takes
// ports of its own, so that nobody is given one of them between this call and the daemon's bind.
[[nodiscard]] result<std::uint16_t> find_free_ports(const std::string& host, unsigned count,
                                                    const std::vector<std::uint16_t>& taken);

// conflict with the process that listens there, unavailable when the address is not one of this machine.
[[nodiscard]] result<void> check_port_is_free(const host_port& address);

}  // namespace troupe::cli
