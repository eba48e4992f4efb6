// The bare transport under the cluster: scatter bytes to some peer processes over ZeroMQ and gather as many bytes back.
// Nothing of ours in between, so that the difference is what Troupe adds. One thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/error.hpp"

namespace troupe::bench {

// The peer's side: answers every message with as many bytes as it asks for, until its parent goes away.
int run_echo_peer(const std::string& address);

class echo_peers {
 public:
  // Starts `count` processes of `program` (which must call run_echo_peer for "bench echo-peer ADDRESS") with sockets in
  // `folder`, and waits until each has answered.
  [[nodiscard]] static result<echo_peers> start(const std::filesystem::path& program,
                                                const std::filesystem::path& folder, std::size_t count);
  echo_peers(echo_peers&&) noexcept;
  echo_peers& operator=(echo_peers&&) noexcept;
  ~echo_peers();

  // Sends `request_bytes` to each of the first `peers` and returns when `reply_bytes` have come back from each of them.
  [[nodiscard]] result<void> scatter_gather(std::size_t peers, std::size_t request_bytes, std::size_t reply_bytes);

 private:
  struct state;
  explicit echo_peers(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::bench
