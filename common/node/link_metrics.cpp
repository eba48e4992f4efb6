#include "common/node/link_metrics.hpp"

#include <utility>

#include "common/node/coordinator_link.hpp"

namespace troupe::node {

void append_link_metrics(const coordinator_link* link, std::vector<http::metric_family>& families) {
  using http::metric_kind;
  const auto add = [&](const char* name, const char* help, metric_kind kind, double value) {
    http::metric_family family{name, help, kind};
    family.add({{"peer", "coordinator"}}, value);
    families.push_back(std::move(family));
  };
  const auto beats = link == nullptr ? heartbeat_totals{} : link->heartbeats();
  add("moe_peer_up", "1: the peer answers.", metric_kind::gauge, link != nullptr && link->state().connected ? 1 : 0);
  add("moe_heartbeats_missed_total", "Heartbeats that the peer did not answer in time.", metric_kind::counter,
      static_cast<double>(beats.missed));
  if (beats.round_trip.count() == 0) return;
  add("moe_peer_rtt_seconds", "From the newest answered heartbeat to its answer.", metric_kind::gauge,
      std::chrono::duration<double>(beats.round_trip).count());
}

}  // namespace troupe::node
