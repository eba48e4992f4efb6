// The host's way to the threads around it: answers to the data server, loads to the loader, reports to the coordinator.
#pragma once

#include <chrono>
#include <map>
#include <mutex>

#include "common/node/coordinator_link.hpp"
#include "expert_node/core/expert_statistics.hpp"
#include "expert_node/shell/host_ports.hpp"

namespace troupe::expert {

class data_server;
class loader;
class node_metrics;

// Calls come from the host's thread. The parts are set before the first message that needs them is sent to the host;
// the link may come last and go first.
class node_ports : public host_ports {
 public:
  explicit node_ports(node_metrics& metrics) : metrics_{metrics} {}

  void use(data_server* server) { data_ = server; }
  void use(loader* worker) { loader_ = worker; }
  // nullptr: no coordinator any more. Waits until the link is not being used.
  void use(node::coordinator_link* link);

  // Empty: the device works. Any thread.
  [[nodiscard]] std::string device_failure() const;

  void answer(call_handle call) override;
  void batch_computed(double seconds) override;
  void start_load(load_job job) override;
  void start_unload(slot_index slot) override;
  void inventory(std::vector<slot_report> slots) override;
  void device_lost(const std::string& reason) override;
  void statistics(statistics_report report) override;

 private:
  node_metrics& metrics_;
  data_server* data_{};
  loader* loader_{};
  const std::chrono::steady_clock::time_point started_{std::chrono::steady_clock::now()};
  std::map<expert_id, expert_totals> unsent_;  // lines that the coordinator has not been told yet; host's thread
  mutable std::mutex mutex_;
  node::coordinator_link* link_{};  // guarded by mutex_
  std::string device_failure_;      // guarded by mutex_
};

}  // namespace troupe::expert
