// Reads what a second checkpoint folder offers for a refresh, on a thread of its own: that takes as long as reading the
// weights does.
#pragma once

#include <memory>

#include <caf/fwd.hpp>

#include "coordinator/shell/actors.hpp"

namespace troupe::model {
class checkpoint;
}

namespace troupe::coordinator {

// Detached; one folder after the other. `served`: the model's own.
[[nodiscard]] folder_actor spawn_folder_actor(caf::actor_system& system,
                                              std::shared_ptr<const model::checkpoint> served);

}  // namespace troupe::coordinator
