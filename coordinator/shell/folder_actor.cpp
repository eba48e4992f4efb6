#include "coordinator/shell/folder_actor.hpp"

#include <caf/actor_system.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <exception>

#include <fmt/format.h>

#include "model/checkpoint.hpp"
#include "model/refresh.hpp"

namespace troupe::coordinator {
namespace {

result<std::vector<found_expert>> read(const model::checkpoint& served, const std::string& folder) {
  auto next = model::checkpoint::open(folder);
  if (!next) return fail(next.error());
  auto digests = model::digests_for_refresh(served, *next);
  if (!digests) return fail(digests.error());
  std::vector<found_expert> found;
  for (const auto& [expert, digest] : *digests) found.push_back({expert, digest});
  return found;
}

folder_actor::behavior_type folder_behavior(folder_actor::pointer, std::shared_ptr<const model::checkpoint> served) {
  return {
      [served](const read_folder& message) -> folder_read {
        try {
          return {read(*served, message.folder)};
        } catch (const std::exception& e) {
          return {fail(errc::internal, fmt::format("reading {} failed: {}", message.folder, e.what()))};
        }
      },
  };
}

}  // namespace

folder_actor spawn_folder_actor(caf::actor_system& system, std::shared_ptr<const model::checkpoint> served) {
  return system.spawn<caf::detached>(folder_behavior, std::move(served));
}

}  // namespace troupe::coordinator
