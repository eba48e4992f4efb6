#include "cli/ports.hpp"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>

namespace troupe::cli {
namespace {

// Linux hands out 32768-60999 by default; services of distributions rarely sit between these two.
constexpr std::uint16_t first_port = 20'000;
constexpr std::uint16_t last_port = 31'900;
constexpr int attempts_max = 200;

struct bind_outcome {
  int error{};  // errno, or 0
  bool resolved{};
};

bind_outcome try_bind(const host_port& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> guard{found, &::freeaddrinfo};
  const int descriptor = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return {errno, true};
  const int yes = 1;
  (void)::setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  int error = ::bind(descriptor, found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
  if (error == 0 && ::listen(descriptor, 1) != 0) error = errno;
  ::close(descriptor);
  return {error, true};
}

// The socket inodes that listen on a port, from /proc/net/tcp and tcp6.
std::vector<std::string> listening_inodes(std::uint16_t port) {
  std::vector<std::string> inodes;
  const std::string wanted = fmt::format(":{:04X}", port);
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file{table};
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) {
      std::istringstream fields{line};
      std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
      fields >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
      if (state == "0A" && local.ends_with(wanted)) inodes.push_back("socket:[" + inode + "]");
    }
  }
  return inodes;
}

// "nginx (pid 812)", or "another process" when we may not look.
std::string owner_of(std::uint16_t port) {
  namespace fs = std::filesystem;
  const auto inodes = listening_inodes(port);
  std::error_code ignored;
  for (fs::directory_iterator process{"/proc", ignored}; process != fs::directory_iterator{};
       process.increment(ignored)) {
    const std::string pid = process->path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code denied;
    for (fs::directory_iterator fd{process->path() / "fd", denied}; !denied && fd != fs::directory_iterator{};
         fd.increment(denied)) {
      const std::string target = fs::read_symlink(fd->path(), denied);
      if (std::find(inodes.begin(), inodes.end(), target) == inodes.end()) continue;
      std::string name;
      std::getline(std::ifstream{process->path() / "comm"} >> std::ws, name);
      return fmt::format("{} (pid {})", name, pid);
    }
  }
  return "another process";
}

}  // namespace

result<host_port> parse_host_port(std::string_view text) {
  const auto colon = text.rfind(':');
  const auto wrong = [&] {
    return fail(errc::invalid_request,
                fmt::format("'{}' is not an address; write HOST:PORT, e.g. 127.0.0.1:8080", text));
  };
  if (colon == std::string_view::npos) return wrong();
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc{} || end != digits.data() + digits.size() || digits.empty()) return wrong();
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!bracketed && host.find(':') != std::string_view::npos) return wrong();
  return host_port{host.empty() ? "127.0.0.1" : std::string{host}, port};
}

result<std::uint16_t> find_free_ports(const std::string& host, unsigned count,
                                      const std::vector<std::uint16_t>& taken) {
  std::random_device seed;
  std::uniform_int_distribution<int> pick{first_port, last_port};
  for (int attempt = 0; attempt < attempts_max; ++attempt) {
    const auto first = static_cast<std::uint16_t>(pick(seed));
    bool free = true;
    for (unsigned i = 0; free && i < count; ++i) {
      const auto port = static_cast<std::uint16_t>(first + i);
      const auto outcome = try_bind({host, port});
      if (!outcome.resolved || outcome.error == EADDRNOTAVAIL) return fail(check_port_is_free({host, port}).error());
      free = outcome.error == 0 && std::find(taken.begin(), taken.end(), port) == taken.end();
    }
    if (free) return first;
  }
  return fail(errc::unavailable,
              fmt::format("no {} neighbouring free ports between {} and {} on {}; stop something that listens there",
                          count, first_port, last_port, host));
}

result<void> check_port_is_free(const host_port& address) {
  const auto outcome = try_bind(address);
  if (!outcome.resolved) {
    return fail(errc::invalid_request,
                fmt::format("unknown host name {}; write an address of this machine", address.host));
  }
  if (outcome.error == 0) return {};
  if (outcome.error == EADDRINUSE) {
    return fail(errc::conflict,
                fmt::format("port {} of {} is already in use by {}; choose another port, or 0 for a free one",
                            address.port, address.host, owner_of(address.port)));
  }
  return fail(errc::invalid_request,
              fmt::format("cannot listen on {}: {}; write an address of this machine and a port that you may use",
                          address.text(), std::strerror(outcome.error)));
}

}  // namespace troupe::cli
