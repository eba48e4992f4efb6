// A whole cluster in one thread and in virtual time: expert nodes and routers in memory, a network that loses, delays,
// doubles and reorders, and the real coordinator core with a store that survives its crashes. One seed, one history.
//
// After every step the invariants are checked against the truth in the nodes, not against what the coordinator
// believes; the first violation is kept as text.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/cluster_state_machine.hpp"

namespace troupe::simulation {

using namespace coordinator;
using std::chrono::milliseconds;

struct fault_options {
  double loss{};              // of every message
  double duplicate{};         // of every message
  milliseconds delay_max{5};  // uniform from 1 ms
  bool reorder{};             // else the messages of one link keep their order
  double load_failure{};
  double wrong_digest{};
  double store_failure{};
  milliseconds node_crash_every{};  // 0: never; mean of the time between two
  milliseconds coordinator_crash_every{};
  milliseconds partition_every{};
  milliseconds freeze_every{};
  milliseconds command_every{};
};

struct cluster_shape {
  std::uint32_t layers{2};
  std::uint32_t experts_per_layer{5};
  std::vector<std::uint32_t> slots{8, 8, 8};  // per expert node
  std::vector<std::string> zones;             // per expert node; empty: one machine
  std::uint32_t routers{2};
  std::uint32_t replication{1};
  bool tight{};  // not enough slots for everything
};

// Of what the model's own folder has.
[[nodiscard]] sha256_digest digest_of(const expert_id& expert);
[[nodiscard]] cluster_settings settings_of(const cluster_shape& shape);

class simulated_cluster {
 public:
  simulated_cluster(cluster_shape shape, std::uint64_t seed);

  // Runs for `length` of virtual time under `faults`; stops at the first violation.
  void run(milliseconds length, const fault_options& faults);
  // Everything is repaired and restarted; from now on run() without faults must converge.
  void heal();
  // Empty when everything is as it should be at rest; else what is not.
  [[nodiscard]] std::string unsettled() const;
  [[nodiscard]] const std::string& violation() const { return violation_; }
  [[nodiscard]] epoch_number newest_epoch() const { return newest_epoch_; }
  [[nodiscard]] const std::string& history() const { return history_; }

  // For scenarios: direct actions.
  void crash_node(std::size_t n);
  void start_node(std::size_t n);
  void freeze_node(std::size_t n, milliseconds length);
  void cut_node(const std::string& name, bool cut);
  void crash_coordinator();
  void start_coordinator();
  void command(const admin_command& what);
  [[nodiscard]] const cluster_state* coordinator_state() const;
  [[nodiscard]] const std::vector<admin_reply>& replies() const { return replies_; }

 private:
  struct truth_slot {
    expert_id expert;
    weights_version version;
    reported_slot_state state{reported_slot_state::loading};
    sha256_digest digest{};
    bool wrong_digest{};
    std::uint64_t load{};  // number of the load that this is
  };
  struct simulated_node {
    node_id name;
    node_role role{node_role::expert};
    bool alive{};
    time_point frozen_until{};
    incarnation_number incarnation;
    std::uint32_t slots_total{};
    std::string zone;
    bool joined{};
    time_point last_join{};
    term_number term;
    std::pair<term_number, std::uint64_t> newest_order;
    std::uint64_t sequence{};
    std::map<slot_index, truth_slot> slots;
    std::shared_ptr<const cluster_map> map;
  };
  struct scheduled {
    time_point at;
    std::uint64_t order;
    std::function<void()> what;
    bool operator>(const scheduled& other) const { return std::tie(at, order) > std::tie(other.at, other.order); }
  };

  // -- time and chance
  void after(milliseconds delay, std::function<void()> what);
  [[nodiscard]] bool chance(double probability);
  [[nodiscard]] milliseconds between(milliseconds low, milliseconds high);
  [[nodiscard]] bool is_due(milliseconds mean);
  void note(std::string text);

  // -- network
  void to_coordinator(simulated_node& node, event what);
  void to_node(const node_id& name, incarnation_number incarnation, std::function<void(simulated_node&)> what);
  void transmit(const std::string& node, bool up, std::function<void()> deliver);

  // -- nodes
  void beat(std::size_t n, std::uint64_t life);
  void answer_beat(const node_id& name, incarnation_number incarnation);
  void join(simulated_node& node);
  void receive(simulated_node& node, const node_message& message);
  [[nodiscard]] bool obey(simulated_node& node, term_number term, std::uint64_t command);
  void load(simulated_node& node, const load_order& order);
  void free(simulated_node& node, const free_order& order);
  void receive_map(simulated_node& node, const std::shared_ptr<const cluster_map>& map);
  void report(simulated_node& node);
  [[nodiscard]] simulated_node* find(const node_id& name);
  [[nodiscard]] const simulated_node* find(const node_id& name) const;

  // -- coordinator
  void step(const event& what);
  void tick(std::uint64_t life);
  void perform();
  void deliver(output out);
  void save(const std::vector<store_record>& records);

  // -- faults and checks
  void inject();
  [[nodiscard]] admin_command random_command();
  [[nodiscard]] refresh_weights random_refresh();
  [[nodiscard]] apply_placement random_placement();
  void give_up_wishes();
  void check_order(const node_message& message);
  void check_publication(const cluster_map& map);
  void check_history();
  void check_beliefs();
  void check_truth();
  [[nodiscard]] std::string unfulfilled() const;
  [[nodiscard]] static std::size_t most_replicas(const cluster_state& state);
  void violate(std::string text);

  cluster_shape shape_;
  std::mt19937_64 random_;
  fault_options faults_;
  time_point now_{std::chrono::hours(1)};
  std::uint64_t order_{};
  std::priority_queue<scheduled, std::vector<scheduled>, std::greater<>> agenda_;

  std::vector<simulated_node> nodes_;
  std::vector<std::uint64_t> lives_;  // per node: which start its timers belong to
  std::set<std::string> cut_;
  std::map<std::pair<std::string, bool>, time_point> last_delivery_;  // per link and direction
  std::uint64_t next_incarnation_{1};
  std::uint64_t next_load_{1};

  std::optional<cluster_state_machine> coordinator_;
  std::uint64_t coordinator_life_{};
  durable_state disk_;
  std::vector<admin_reply> replies_;
  std::uint64_t next_command_{1};
  std::map<std::string, std::string> answered_;  // command id -> its first good answer

  term_number newest_term_;
  epoch_number newest_epoch_;
  std::shared_ptr<const cluster_map> newest_map_;
  std::map<epoch_number, std::string> placements_;  // of the last maps that anybody has seen
  std::set<std::tuple<std::string, std::uint64_t, std::uint32_t, expert_id>> frees_;  // since the slot was last loaded
  std::string violation_;
  std::string history_;
};

}  // namespace troupe::simulation
