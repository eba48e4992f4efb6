// What GET /metrics and GET /readyz of the coordinator say. Any thread.
#pragma once

#include <memory>
#include <vector>

#include "common/http/metrics.hpp"
#include "common/http/probes.hpp"
#include "coordinator/shell/coordinator_actor.hpp"

namespace troupe::coordinator {

[[nodiscard]] http::metrics_registry::source coordinator_metrics(std::shared_ptr<const public_view_box> view);
// Ready when the state can be written and the first placement is over.
[[nodiscard]] std::vector<http::check> readiness(const public_view& view);

}  // namespace troupe::coordinator
