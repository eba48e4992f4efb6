// What operators ask for: drain, undrain, remove, stop, and by expert_commands one expert. A command is checked,
// written to disk, carried out and then acknowledged; the same command id again gets the same answer.
#pragma once

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::admin_commands {

void handle(cluster_state& state, const admin_command& command);
// The command is on disk: do it.
void committed(cluster_state& state, const persist_in_flight& done);
// It could not be written: nothing has happened, say so.
void rejected(cluster_state& state, const persist_in_flight& failed, const error& why);

}  // namespace troupe::coordinator::admin_commands
