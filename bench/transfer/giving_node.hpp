// The giving side in a process of its own: one expert in a slot of a CPU device behind Troupe's peer server, and the
// same bytes behind a bare ROUTER, each on ipc, on TCP, and on TCP with CURVE.
#pragma once

#include <sys/types.h>

#include <array>
#include <filesystem>
#include <string>

#include "common/wire/keys.hpp"

namespace troupe::bench {

inline constexpr const char* cluster_name = "bench";
inline constexpr const char* giver_name = "expert-0";
inline constexpr const char* taker_name = "expert-1";

enum class road : std::size_t { ipc, tcp, tcp_curve };
inline constexpr std::array<const char*, 3> road_names{"ipc", "tcp loopback", "tcp loopback, CURVE"};

struct road_addresses {
  std::string troupe;
  std::string bare;
};

class giving_node {
 public:
  // Forks: call it while the process has one thread. `folder` holds the checkpoint in "model" and the file "authorized"
  // that names the taker's key; sockets are made there. Throws std::runtime_error.
  giving_node(const std::filesystem::path& folder, const wire::key_pair& keys);
  // Kills it.
  ~giving_node();
  giving_node(const giving_node&) = delete;
  giving_node& operator=(const giving_node&) = delete;
  [[nodiscard]] const road_addresses& at(road r) const { return addresses_[static_cast<std::size_t>(r)]; }

 private:
  pid_t process_{};
  std::array<road_addresses, road_names.size()> addresses_;
};

}  // namespace troupe::bench
