// What the dispatcher knows of every expert host: its link, its work in flight, its history; and the choice between
// replicas. Single-threaded; hosts keep their index for ever, so an index may be stored.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "router_node/core/latency_history.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

// The link to one host, as the shell reports it.
struct link_connecting {
  time_point since;
};
struct link_ready {
  incarnation_number incarnation;
};
struct link_down {
  std::string reason;
};
using link_state = std::variant<link_connecting, link_ready, link_down>;

struct host {
  node_id name;
  link_state link{link_down{"not connected"}};
  std::optional<incarnation_number> expected{};  // by the map; none when it is lost or not in the map
  std::uint64_t link_generation{};  // counts changes of `link`: what was excluded under an older one is allowed again
  std::uint64_t rows_in_flight{};
  latency_history history{};
  std::optional<time_point> suspect_until{};  // did not answer in time, and nothing was heard since
  node_pace pace{node_pace::normal};
  double slowness{1};         // its normalised time over that of the others (node_latency.hpp)
  std::string pace_reason{};  // of the last change, with the figures; empty: always normal
};

// A replica that a call can go to now.
struct candidate {
  host_index host{};
  weights_version version;
};

// A layer as it was served before other versions of some of its experts were: for texts that go on with these.
struct held_layer {
  struct place {
    host_index host{};
    incarnation_number incarnation;
  };
  struct expert {
    weights_version version;
    std::vector<place> places;
  };
  epoch_number last;                        // the newest map that served it
  std::uint64_t weights{};                  // host_table::weights_of then
  std::map<std::uint32_t, expert> experts;  // by index
};

// Why an expert cannot be called now.
struct nobody {
  std::string reason;                          // for people
  std::optional<time_point> look_at;           // when an exclusion ends
  std::optional<time_point> connecting_until;  // a link is being made: not yet a reason to degrade
};

class host_table {
 public:
  // Takes over which hosts exist and what they hold.
  void set_map(std::shared_ptr<const cluster_map> map);
  [[nodiscard]] const std::shared_ptr<const cluster_map>& map() const { return map_; }
  // cluster_map::gate_mask. Valid until the next map.
  [[nodiscard]] const std::vector<std::uint8_t>& gate_mask(layer_id layer) const;
  // Another number whenever an expert of the layer got another version of its weights.
  [[nodiscard]] std::uint64_t weights_of(layer_id layer) const;
  // That number as it was under the map of that epoch, as far as it was not released.
  [[nodiscard]] std::uint64_t weights_at(layer_id layer, epoch_number epoch) const;
  // Versions of maps before this one are needed no more.
  void release_versions(epoch_number before);
  // Nobody holds the version any more that the expert had under `weights`, and nobody will.
  [[nodiscard]] bool is_gone(const expert_id& expert, std::uint64_t weights) const;
  // The host says that it does not hold it.
  void drop_held(const expert_id& expert, std::uint64_t weights, host_index index);

  // Makes the host known if it is not. Returns its index.
  host_index set_link(const node_id& name, link_state link);
  [[nodiscard]] std::optional<host_index> find(const node_id& name) const;
  [[nodiscard]] host& at(host_index index) { return hosts_[index]; }
  [[nodiscard]] const host& at(host_index index) const { return hosts_[index]; }
  [[nodiscard]] const std::vector<host>& all() const { return hosts_; }

  // Does the map still count on that run of the host? Not when it is lost, gone or was restarted.
  [[nodiscard]] bool is_current(host_index index, incarnation_number incarnation) const {
    return hosts_[index].expected == incarnation;
  }

  // All replicas of an expert in its version under `weights` (weights_of) whose host has a link, except those for which
  // `is_excluded` holds. Empty: `why` says the reason.
  template <class Excluded>
  void find_candidates(const expert_id& expert, std::uint64_t weights, Excluded&& is_excluded,
                       std::vector<candidate>& found, nobody& why) const;

  // Asked only when there is nobody else: a suspect, or a quarantined host.
  [[nodiscard]] bool is_last_choice(host_index index, time_point now) const {
    const auto& h = hosts_[index];
    return (h.suspect_until && *h.suspect_until > now) || h.pace == node_pace::quarantined;
  }

  // Two random candidates, and of these the one with fewer rows in flight (`more` counts rows that are about to be
  // sent, by host), a slow one's rows counted `slowness` times. Last choices only when there is nobody else.
  // @pre !candidates.empty()
  [[nodiscard]] candidate choose(std::span<const candidate> candidates, std::span<const std::uint64_t> more,
                                 time_point now, std::mt19937_64& random) const;

 private:
  host_index index_of(const node_id& name);
  // nullptr: the map does not have it.
  [[nodiscard]] const map_expert* find_expert(const expert_id& expert) const;
  static void note_unusable(nobody& why, const host& h);
  void hold(layer_id layer);
  [[nodiscard]] const held_layer* find_held(layer_id layer, std::uint64_t weights) const;
  // Where the expert was last seen in the version that it had under `weights`; nullptr: the map serves that version.
  [[nodiscard]] const held_layer::expert* find_held(const expert_id& expert, std::uint64_t weights) const;

  std::shared_ptr<const cluster_map> map_;
  std::unordered_map<std::uint32_t, std::vector<std::uint8_t>> masks_;  // by layer; only layers with masked experts
  std::unordered_map<std::uint32_t, std::uint64_t> weights_;            // by layer: how often its versions changed
  std::unordered_map<std::uint32_t, std::deque<held_layer>> held_;      // by layer, oldest first
  std::vector<host_index> by_map_index_;                                // index into map_->nodes -> host
  std::vector<host> hosts_;
  std::unordered_map<node_id, host_index> by_name_;
};

template <class Excluded>
void host_table::find_candidates(const expert_id& expert, std::uint64_t weights, Excluded&& is_excluded,
                                 std::vector<candidate>& found, nobody& why) const {
  found.clear();
  const auto consider = [&](host_index index, incarnation_number incarnation, weights_version version) {
    const auto& h = hosts_[index];
    const auto* ready = std::get_if<link_ready>(&h.link);
    if (ready == nullptr || ready->incarnation != incarnation || !is_current(index, incarnation)) {
      note_unusable(why, h);
    } else if (!is_excluded(index, why)) {
      found.push_back({index, version});
    }
  };
  if (const auto* held = find_held(expert, weights)) {
    if (held->places.empty()) why.reason = "the version that the text began with is gone";
    for (const auto& place : held->places) consider(place.host, place.incarnation, held->version);
    return;
  }
  const auto* known = map_ ? find_expert(expert) : nullptr;
  if (known == nullptr || known->replicas.empty()) {
    why.reason = map_ ? "no replica" : "no cluster map yet";
    return;
  }
  for (const auto& replica : known->replicas) {
    consider(by_map_index_[replica.node], map_->nodes[replica.node].incarnation, replica.version);
  }
}

}  // namespace troupe::router
