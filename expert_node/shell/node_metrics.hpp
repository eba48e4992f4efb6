// What /metrics of an expert node says. The host's thread writes, the HTTP thread reads.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/http/metrics.hpp"
#include "common/ids.hpp"
#include "expert_node/core/expert_call.hpp"
#include "expert_node/shell/host_ports.hpp"

namespace troupe::expert {

struct data_server_counters;
struct loader_counters;
struct peer_server_counters;

// What is read at each scrape; nullptr: not there.
struct metric_sources {
  const data_server_counters* data{};
  const loader_counters* loading{};
  const peer_server_counters* peers{};
  std::function<std::uint64_t()> epoch;
};

class node_metrics {
 public:
  explicit node_metrics(std::string node);

  // The host's thread.
  void call_answered(const expert_call& call);
  void batch_computed(double seconds);
  void use(const statistics_report& report);

  // @pre once, before the first scrape; the sources outlive the registry.
  void register_with(http::metrics_registry& registry, metric_sources sources);

 private:
  void collect_experts(std::vector<http::metric_family>& families) const;
  void collect_sockets(std::vector<http::metric_family>& families) const;
  void collect_loading(std::vector<http::metric_family>& families) const;

  const std::string node_;
  metric_sources sources_;
  http::histogram batch_seconds_;
  mutable std::mutex mutex_;
  std::map<layer_id, std::unique_ptr<http::histogram>> latency_;  // guarded by mutex_, as the next two
  std::map<expert_id, expert_totals> experts_;
  statistics_report last_;  // without the lines
};

}  // namespace troupe::expert
