#include "common/node/coordinator_link.hpp"

#include <fmt/format.h>
#include <pthread.h>

#include <thread>
#include <utility>

#include "common/node/control_loop.hpp"
#include "common/node/heartbeat_sender.hpp"
#include "common/wire/address.hpp"

namespace troupe::node {

class coordinator_link::impl {
 public:
  impl(std::shared_ptr<wire::context> ctx, coordinator_link_options options, coordinator_link_handlers handlers,
       wire::wake_signal wake)
      : loop(std::move(ctx), std::move(options), std::move(handlers), std::move(wake)) {}

  control_loop loop;
  std::unique_ptr<heartbeat_sender> heartbeats;
  std::thread thread;
};

coordinator_link::coordinator_link(std::unique_ptr<impl> i) : impl_(std::move(i)) {}

coordinator_link::~coordinator_link() { stop(farewell::none); }

result<std::unique_ptr<coordinator_link>> coordinator_link::start(std::shared_ptr<wire::context> ctx,
                                                                  coordinator_link_options options,
                                                                  coordinator_link_handlers handlers) {
  if (wire::needs_curve(options.control_address) && !options.keys) {
    return fail(errc::invalid_request, fmt::format("the coordinator's address {} needs keys; give this node a key file",
                                                   options.control_address));
  }
  auto heartbeat_address = options.heartbeat_address;
  if (heartbeat_address.empty()) {
    auto sibling = wire::sibling_address(options.control_address, wire::sibling::heartbeat);
    if (!sibling) return fail(std::move(sibling.error()));
    heartbeat_address = std::move(*sibling);
  }
  auto wake = wire::wake_signal::make();
  if (!wake) return fail(std::move(wake.error()));
  wire::socket_options settings;
  settings.client = options.keys;
  auto made = std::make_unique<impl>(ctx, std::move(options), std::move(handlers), std::move(*wake));
  auto heartbeats = heartbeat_sender::start(std::move(ctx), std::move(heartbeat_address), std::move(settings),
                                            [loop = &made->loop] { loop->wake(); });
  if (!heartbeats) return fail(std::move(heartbeats.error()));
  made->heartbeats = std::move(*heartbeats);
  made->loop.use(*made->heartbeats);
  made->thread = std::thread([loop = &made->loop] {
    ::pthread_setname_np(::pthread_self(), "coordinator");
    loop->run();
  });
  return std::unique_ptr<coordinator_link>(new coordinator_link(std::move(made)));
}

void coordinator_link::stop(farewell say) {
  if (!impl_->thread.joinable()) return;
  impl_->loop.stop(say == farewell::leave);
  impl_->thread.join();
  impl_->heartbeats->end_session();
}

void coordinator_link::acknowledge(term_number term, epoch_number epoch, std::optional<epoch_number> uses_since) {
  impl_->loop.acknowledge(term, epoch, uses_since.value_or(epoch));
}

void coordinator_link::report_inventory(const proto::Inventory& inventory) { impl_->loop.report_inventory(inventory); }

result<void> coordinator_link::send_stats(const proto::NodeStats& stats) {
  proto::NodeToCoordinator message;
  *message.mutable_stats() = stats;
  return impl_->loop.enqueue(std::move(message));
}

result<void> coordinator_link::send_query(const proto::NodeQuery& query) {
  proto::NodeToCoordinator message;
  *message.mutable_query() = query;
  return impl_->loop.enqueue(std::move(message));
}

incarnation_number coordinator_link::incarnation() const { return impl_->loop.incarnation(); }
std::string coordinator_link::cluster_id() const { return impl_->loop.cluster_id(); }
coordinator_state coordinator_link::state() const { return impl_->loop.state(); }
heartbeat_totals coordinator_link::heartbeats() const { return impl_->heartbeats->totals(); }
std::shared_ptr<const cluster_map> coordinator_link::map() const { return impl_->loop.map(); }

}  // namespace troupe::node
