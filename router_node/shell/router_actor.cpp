#include "router_node/shell/router_actor.hpp"

#include <fmt/format.h>
#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <caf/blocking_actor.hpp>
#include <caf/exit_reason.hpp>

#include "router_node/shell/router_loop.hpp"

namespace troupe::router {
namespace {

class router_actor final : public caf::blocking_actor {
 public:
  router_actor(caf::actor_config& config, std::shared_ptr<router_loop> loop,
               std::function<void(std::string)> on_failure)
      : caf::blocking_actor(config), loop_(std::move(loop)), on_failure_(std::move(on_failure)) {}

  const char* name() const override { return "router"; }

  void act() override {
    try {
      loop_->run();
    } catch (const std::exception& e) {
      on_failure_(fmt::format("the router's thread ended: {}", e.what()));
      fail_state(caf::make_error(caf::exit_reason::unhandled_exception));
    }
    loop_.reset();  // its sockets belong to this thread
  }

 private:
  std::shared_ptr<router_loop> loop_;
  std::function<void(std::string)> on_failure_;
};

}  // namespace

caf::actor spawn_router(caf::actor_system& system, std::shared_ptr<router_loop> loop,
                        std::function<void(std::string)> on_failure) {
  return system.spawn<router_actor, caf::detached>(std::move(loop), std::move(on_failure));
}

}  // namespace troupe::router
