// The actor of the router: a detached blocking actor, that is, a thread with a supervisor.
//
// It waits in the poller of its loop, not in its mailbox: a request that crossed mailboxes would pay for each hop.
// Orders from other threads go through the loop's inbox. When the loop throws, the actor ends with an error, which its
// monitor sees; the loop's state is not to be trusted then, so the process ends.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <caf/fwd.hpp>

namespace caf {
class actor;
}

namespace troupe::router {

class router_loop;

// Runs `loop` on a thread of its own until loop->stop(). `on_failure` is called on that thread when it throws.
[[nodiscard]] caf::actor spawn_router(caf::actor_system& system, std::shared_ptr<router_loop> loop,
                                      std::function<void(std::string)> on_failure);

}  // namespace troupe::router
