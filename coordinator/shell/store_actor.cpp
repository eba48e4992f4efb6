#include "coordinator/shell/store_actor.hpp"

#include <spdlog/spdlog.h>
#include <caf/actor_system.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <chrono>

namespace troupe::coordinator {
namespace {

// As etcd: above this a disk is too slow for a coordinator, and somebody should know.
constexpr std::chrono::milliseconds slow_write{100};

store_actor::behavior_type store_behavior(store_actor::pointer, std::shared_ptr<store> target) {
  return {
      [target](const write_records& message) {
        auto begin = std::chrono::steady_clock::now();
        auto done = target->write(message.records);
        auto took = std::chrono::steady_clock::now() - begin;
        if (took > slow_write) {
          spdlog::warn("writing {} records took {} ms; is the disk overloaded?", message.records.size(),
                       std::chrono::duration_cast<std::chrono::milliseconds>(took).count());
        }
        return records_written{message.ticket, done ? std::nullopt : std::optional(done.error())};
      },
  };
}

}  // namespace

store_actor spawn_store_actor(caf::actor_system& system, std::shared_ptr<store> target) {
  return system.spawn<caf::detached>(store_behavior, std::move(target));
}

}  // namespace troupe::coordinator
