// The router's two actors, its loop and the generation engine: detached blocking actors, that is, threads with a
// supervisor.
//
// They wait in loops of their own, not in their mailboxes: a request that crossed mailboxes would pay for each hop.
// Orders from other threads go through the loops' inboxes. When a loop throws, its actor ends with an error, which its
// monitor sees; the loop's state is not to be trusted then, so the process ends.
#pragma once

#include <functional>
#include <string>

#include <caf/fwd.hpp>

namespace caf {
class actor;
}

namespace troupe::router {

// Runs `loop` on a thread of its own until it returns; what it owns is released on that thread. `on_failure` is called
// there when it throws. `name`: a literal.
[[nodiscard]] caf::actor spawn_loop(caf::actor_system& system, const char* name, std::function<void()> loop,
                                    std::function<void(std::string)> on_failure);

}  // namespace troupe::router
