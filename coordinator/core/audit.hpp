// One line per command of an operator that was to change something: who, what, and what became of it.
#pragma once

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator {

// Tells an event of kind "audit"; a warning when the command was refused. The coordinator logs events.
void audit(cluster_state& state, const admin_command& command, const result<command_outcome>& outcome);

}  // namespace troupe::coordinator
