#include "expert_node/shell/node_ports.hpp"

#include <utility>

#include "common/daemon/process.hpp"
#include "expert_node/shell/coordinator_messages.hpp"
#include "expert_node/shell/data_server.hpp"
#include "expert_node/shell/loader.hpp"
#include "expert_node/shell/node_metrics.hpp"
#include "proto/node_coordinator.pb.h"

namespace troupe::expert {

void node_ports::use(node::coordinator_link* link) {
  std::lock_guard lock{mutex_};
  link_ = link;
}

void node_ports::answer(call_handle call) {
  metrics_.call_answered(*call);
  data_->answer(std::move(call));
}

void node_ports::batch_computed(double seconds) { metrics_.batch_computed(seconds); }
void node_ports::start_load(load_job job) { loader_->load(std::move(job)); }
void node_ports::start_unload(slot_index slot) { loader_->unload(slot); }

void node_ports::inventory(std::vector<slot_report> slots) {
  proto::Inventory message;
  to_proto(slots, message);
  std::lock_guard lock{mutex_};
  if (link_ != nullptr) link_->report_inventory(message);
}

void node_ports::device_lost(const std::string& reason) {
  proto::Inventory message;
  message.mutable_device_failure()->set_code(proto::INTERNAL);
  message.mutable_device_failure()->set_message(reason);
  std::lock_guard lock{mutex_};
  device_failure_ = reason;
  if (link_ != nullptr) link_->report_inventory(message);
}

std::string node_ports::device_failure() const {
  std::lock_guard lock{mutex_};
  return device_failure_;
}

void node_ports::statistics(statistics_report report) {
  metrics_.use(report);
  for (const auto& line : report.changed) unsent_[line.expert] = line.totals;
  proto::NodeStats message;
  message.set_uptime_ms(static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - started_).count()));
  message.set_resident_set_bytes(daemon::resident_set_bytes());
  message.set_queue_rows(report.queue_rows);
  for (const auto& [expert, totals] : unsent_) to_proto(expert_line{expert, totals}, message);
  std::lock_guard lock{mutex_};
  if (link_ != nullptr && link_->send_stats(message)) unsent_.clear();
}

}  // namespace troupe::expert
