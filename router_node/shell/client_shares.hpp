// How many answers each client has in progress, so that a flood of one leaves the others their share (faults.md O3).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

namespace troupe::router {

// Any thread. Shares may outlive it.
class client_shares {
 public:
  explicit client_shares(std::uint32_t per_client_max) : per_client_max_(per_client_max) {}

  // nullptr when that many more would be too many. Dropping it gives the share back.
  [[nodiscard]] std::shared_ptr<void> take(const std::string& client, std::uint32_t answers) {
    const std::lock_guard lock(counts_->mutex);
    auto& used = counts_->by_client[client];
    if (used + answers > per_client_max_) {
      if (used == 0) counts_->by_client.erase(client);
      return nullptr;
    }
    used += answers;
    return {static_cast<void*>(counts_.get()), [counts = counts_, client, answers](void*) {
              const std::lock_guard guard(counts->mutex);
              const auto at = counts->by_client.find(client);
              at->second -= answers;
              if (at->second == 0) counts->by_client.erase(at);
            }};
  }

 private:
  struct counts {
    std::mutex mutex;
    std::unordered_map<std::string, std::uint32_t> by_client;
  };
  const std::uint32_t per_client_max_;
  std::shared_ptr<counts> counts_ = std::make_shared<counts>();
};

}  // namespace troupe::router
