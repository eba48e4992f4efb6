// Who this process is: what every handshake and every answer says about it. Any thread.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <utility>

#include "common/ids.hpp"

namespace troupe::expert {

class node_identity {
 public:
  node_identity(node_id name, std::string cluster_id, incarnation_number incarnation)
      : name_{std::move(name)}, incarnation_{incarnation.value}, cluster_id_{std::move(cluster_id)} {}

  [[nodiscard]] const node_id& name() const { return name_; }

  // Changes when the coordinator had given this node up and lets it join again.
  [[nodiscard]] incarnation_number incarnation() const { return {incarnation_.load(std::memory_order_relaxed)}; }
  void set_incarnation(incarnation_number value) { incarnation_.store(value.value, std::memory_order_relaxed); }

  // Newest map this node has seen.
  [[nodiscard]] epoch_number epoch() const { return {epoch_.load(std::memory_order_relaxed)}; }
  void set_epoch(epoch_number value) { epoch_.store(value.value, std::memory_order_relaxed); }

  // Empty until the coordinator has said it.
  [[nodiscard]] std::string cluster_id() const {
    std::lock_guard lock{mutex_};
    return cluster_id_;
  }
  void set_cluster_id(std::string value) {
    std::lock_guard lock{mutex_};
    cluster_id_ = std::move(value);
  }

 private:
  const node_id name_;
  std::atomic<std::uint64_t> incarnation_;
  std::atomic<std::uint64_t> epoch_{};
  mutable std::mutex mutex_;
  std::string cluster_id_;  // guarded by mutex_
};

}  // namespace troupe::expert
