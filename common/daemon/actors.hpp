// How CAF runs in our daemons. Header only: whoever includes it links troupe_caf.
#pragma once

#include <cstddef>

#include <caf/actor_system_config.hpp>
#include <caf/atom.hpp>

namespace troupe::daemon {

// One scheduler thread that sleeps until there is work. CAF's default policy polls for work instead: behind an actor
// that gets a message every few milliseconds it never comes to rest, and took a tenth of a core in an idle coordinator.
inline void use_one_sleeping_worker(caf::actor_system_config& config) {
  config.set("scheduler.policy", caf::atom("sharing"));
  config.set("scheduler.max-threads", std::size_t{1});
}

}  // namespace troupe::daemon
