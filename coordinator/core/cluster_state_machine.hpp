// The coordinator's brain: a pure state machine with three doors.
//
//   step(event, now)   something arrived: a join, an inventory, an acknowledgement, a command, a result of the store
//   tick(now)          time went by: makes a pass when something changed or a pass is due
//   take_output()      what to do now, in order (output.hpp); call it after every step and tick
//
// Why it is built this way. It is level-triggered: a pass compares what is wanted (the placement) with what was last
// seen (the nodes' inventories) and emits the next small step, so a lost message or a restart costs a pass and nothing
// else. Nothing becomes true before it is on disk: a map counts as published and a command as carried out when
// persist_result says so, so a crash at any moment leaves either the old or the new state. It knows no clock, no socket
// and no file: the same code runs in the actor, in text scenarios and under the seeded fault simulation.
//
// The parts (free functions over cluster_state): membership -> inventories -> reconciler (with the planner) ->
// publisher, and admin_commands beside them. Belongs to one thread at a time.
#pragma once

#include <memory>
#include <vector>

#include "coordinator/core/cluster_state.hpp"
#include "coordinator/core/events.hpp"
#include "coordinator/core/output.hpp"

namespace troupe::coordinator {

class cluster_state_machine {
 public:
  // `durable`: what the store held. The first output writes the new term; until its persist_result nobody may join.
  // conflict when the store belongs to another cluster or another model.
  [[nodiscard]] static result<cluster_state_machine> create(cluster_settings settings, const durable_state& durable,
                                                            time_point now);

  void step(const event& what, time_point now);
  void tick(time_point now);
  [[nodiscard]] output take_output();

  // Read-only view for status documents, metrics and tests. Valid until the next step or tick.
  [[nodiscard]] const cluster_state& state() const { return *state_; }
  // Who has a session, for the heartbeat thread: anybody else is told to join again.
  [[nodiscard]] std::vector<std::pair<node_id, incarnation_number>> members() const;

 private:
  explicit cluster_state_machine(std::unique_ptr<cluster_state> state);
  void restore(const durable_state& durable, const std::vector<expert_id>& dormant);
  void advance_clock(time_point now);
  void on_persist_result(const persist_result& result);

  std::unique_ptr<cluster_state> state_;
  time_point last_pass_{};
};

}  // namespace troupe::coordinator
