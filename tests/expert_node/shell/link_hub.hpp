// Links of GPUs inside one process: both ends meet at a hub by their key, and what one sends is copied to the other.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "compute/gpu_link.hpp"

namespace troupe::expert::testing {

struct link_hub {
  struct meeting {
    std::map<std::uint32_t, std::optional<compute::gpu_move>> ends;  // by rank; a move: its exchange has begun
    bool is_moved{};
    bool is_broken{};
  };
  std::mutex mutex;
  std::map<std::vector<std::byte>, meeting> meetings;
  std::uint8_t keys{};
  int connected{};
  bool refuses_takers{};  // connecting as rank 0 fails
  bool damages{};         // one bit on the way
};

class hub_end final : public compute::gpu_link_backend {
 public:
  explicit hub_end(std::shared_ptr<link_hub> hub) : hub_{std::move(hub)} {}

  result<std::vector<std::byte>> make_key() override {
    std::lock_guard lock{hub_->mutex};
    return std::vector<std::byte>{std::byte{++hub_->keys}};
  }
  result<void> begin_connect(std::span<const std::byte> key, std::uint32_t rank, std::uint32_t) override {
    std::lock_guard lock{hub_->mutex};
    key_.assign(key.begin(), key.end());
    rank_ = rank;
    hub_->meetings[key_].ends.emplace(rank, std::nullopt);
    if (rank == 0 && hub_->refuses_takers) return fail(errc::unavailable, "no way between these GPUs");
    return {};
  }
  result<void> begin_exchange(std::span<const compute::gpu_move> moves) override {
    std::lock_guard lock{hub_->mutex};
    hub_->meetings[key_].ends[rank_] = moves.front();
    is_moving_ = true;
    return {};
  }
  result<void> begin_close() override { return {}; }
  result<bool> is_done() override {
    std::lock_guard lock{hub_->mutex};
    auto& here = hub_->meetings[key_];
    if (here.is_broken) return fail(errc::unavailable, "the other end is gone");
    if (here.ends.size() < 2) return false;
    if (!is_moving_) return true;
    if (here.is_moved) return true;
    if (!here.ends[0] || !here.ends[1]) return false;
    const auto& to = *here.ends[0];
    const auto& from = *here.ends[1];
    if (to.bytes != from.bytes) return fail(errc::internal, "the ends do not fit");
    std::memcpy(to.memory, from.memory, to.bytes);
    if (hub_->damages) to.memory[9] ^= std::byte{1};
    here.is_moved = true;
    ++hub_->connected;
    return true;
  }
  void abort() override {
    std::lock_guard lock{hub_->mutex};
    hub_->meetings[key_].is_broken = true;
  }

 private:
  std::shared_ptr<link_hub> hub_;
  std::vector<std::byte> key_;
  std::uint32_t rank_{};
  bool is_moving_{};
};

}  // namespace troupe::expert::testing
