#include "router_node/shell/loop_actor.hpp"

#include <fmt/format.h>
#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <caf/blocking_actor.hpp>
#include <caf/exit_reason.hpp>

namespace troupe::router {
namespace {

class loop_actor final : public caf::blocking_actor {
 public:
  loop_actor(caf::actor_config& config, const char* name, std::function<void()> loop,
             std::function<void(std::string)> on_failure)
      : caf::blocking_actor(config), name_(name), loop_(std::move(loop)), on_failure_(std::move(on_failure)) {}

  const char* name() const override { return name_; }

  void act() override {
    try {
      loop_();
    } catch (const std::exception& e) {
      on_failure_(fmt::format("the thread of {} ended: {}", name_, e.what()));
      fail_state(caf::make_error(caf::exit_reason::unhandled_exception));
    }
    loop_ = nullptr;  // sockets belong to this thread
  }

 private:
  const char* name_;
  std::function<void()> loop_;
  std::function<void(std::string)> on_failure_;
};

}  // namespace

caf::actor spawn_loop(caf::actor_system& system, const char* name, std::function<void()> loop,
                      std::function<void(std::string)> on_failure) {
  return system.spawn<loop_actor, caf::detached>(name, std::move(loop), std::move(on_failure));
}

}  // namespace troupe::router
