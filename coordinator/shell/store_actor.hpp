// Writes records on a thread of its own, so that a slow disk holds up neither heartbeats nor queries (faults.md D7).
#pragma once

#include <memory>

#include <caf/fwd.hpp>

#include "coordinator/shell/actors.hpp"
#include "coordinator/shell/store.hpp"

namespace troupe::coordinator {

// Detached.
[[nodiscard]] store_actor spawn_store_actor(caf::actor_system& system, std::shared_ptr<store> target);

}  // namespace troupe::coordinator
