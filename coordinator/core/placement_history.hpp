// What the last published maps changed, and why: for people, and to go back to an earlier one. On disk, too: each epoch
// is written with its map (output.hpp: epoch_record), so both outlive a restart. Belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/ids.hpp"
#include "common/limits.hpp"

namespace troupe::coordinator {

struct node_change {
  enum class kind : std::uint8_t { came, left, draining, undrained };
  node_id node;
  kind what{kind::came};
  std::string why;  // may be empty
  friend bool operator==(const node_change&, const node_change&) = default;
};

// Experts to which the same happened on the same node, for the same reason.
struct expert_changes {
  enum class kind : std::uint8_t { added, removed, masked, unmasked, refreshed };
  kind what{kind::added};
  node_id node;  // added, removed
  std::string why;
  std::uint64_t count{};
  std::vector<expert_id> experts;  // the first placement_history::experts_named_max of them
  friend bool operator==(const expert_changes&, const expert_changes&) = default;
};

struct placement_epoch {
  term_number term;
  epoch_number epoch;
  std::int64_t at_unix_ms{};
  std::uint64_t replicas{};  // in the whole map
  std::vector<node_change> nodes;
  std::vector<expert_changes> experts;
  friend bool operator==(const placement_epoch&, const placement_epoch&) = default;
};

[[nodiscard]] std::string_view to_string(node_change::kind what);
[[nodiscard]] std::string_view to_string(expert_changes::kind what);

class placement_history {
 public:
  static constexpr std::size_t epochs_max = limits::placement_epochs_kept_max;
  static constexpr std::size_t experts_named_max = 64;  // per change; all are counted
  static constexpr std::size_t maps_max = limits::placement_maps_kept_max;

  // The oldest beyond epochs_max (of maps: maps_max) is forgotten. nullptr: its map is not known any more.
  void add(placement_epoch epoch, std::shared_ptr<const cluster_map> map);
  // nullptr: not remembered.
  [[nodiscard]] std::shared_ptr<const cluster_map> map_of(epoch_number epoch) const;
  // The oldest and the newest epoch whose map is remembered; 0: none.
  [[nodiscard]] std::pair<epoch_number, epoch_number> maps_kept() const;
  [[nodiscard]] const std::deque<placement_epoch>& epochs() const { return epochs_; }  // the newest last

 private:
  std::deque<placement_epoch> epochs_;
  std::deque<std::shared_ptr<const cluster_map>> maps_;
};

}  // namespace troupe::coordinator
