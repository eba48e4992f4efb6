#include "common/wire/address.hpp"

#include <fmt/format.h>

#include <charconv>

namespace troupe::wire {
namespace {

constexpr std::string_view tcp_prefix = "tcp://";
constexpr std::string_view ipc_prefix = "ipc://";

struct sibling_rule {
  std::string_view from;
  std::string_view to;
  std::uint32_t port_offset;
};

sibling_rule rule_of(sibling which) {
  switch (which) {
    case sibling::heartbeat:
      return {".control.ipc", ".heartbeat.ipc", 1};
    case sibling::admin:
      return {".control.ipc", ".admin.ipc", 2};
    case sibling::peer:
      break;
  }
  return {".data.ipc", ".peer.ipc", 1};
}

}  // namespace

result<std::string> sibling_address(std::string_view address, sibling which) {
  const auto rule = rule_of(which);
  if (address.starts_with(ipc_prefix) && address.ends_with(rule.from)) {
    return fmt::format("{}{}", address.substr(0, address.size() - rule.from.size()), rule.to);
  }
  const auto colon = address.rfind(':');
  if (address.starts_with(tcp_prefix) && colon > tcp_prefix.size()) {
    const auto text = address.substr(colon + 1);
    std::uint32_t port = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (code == std::errc{} && end == text.data() + text.size() && port > 0 && port + rule.port_offset <= 65'535) {
      return fmt::format("{}:{}", address.substr(0, colon), port + rule.port_offset);
    }
  }
  return fail(errc::invalid_request, fmt::format("'{}' is no address with a sibling; write tcp://HOST:PORT or "
                                                 "ipc:///DIR/NAME{}",
                                                 address, rule.from));
}

bool is_remote(std::string_view address) {
  if (!address.starts_with(tcp_prefix)) return false;
  const auto host = address.substr(tcp_prefix.size());
  return !host.starts_with("127.") && !host.starts_with("localhost:") && !host.starts_with("[::1]");
}

bool needs_curve(std::string_view address) { return address.starts_with(tcp_prefix); }

}  // namespace troupe::wire
