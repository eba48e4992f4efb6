// Progressive addition: a model starts with a few experts per layer; those that rows miss most are added while the ones
// that are there have more to do than they should.
#include <numeric>

#include <fmt/format.h>

#include "coordinator/core/policies/missed_experts.hpp"

namespace troupe::coordinator {

std::vector<proposal> propose_additions(const policy_input& input, const policy_settings& settings) {
  auto waiting = std::accumulate(input.nodes.begin(), input.nodes.end(), std::uint64_t{0},
                                 [](auto sum, const node_load& node) { return sum + node.queue_rows; });
  if (waiting < settings.add_queue_rows) return {};
  std::vector<proposal> proposals;
  for (const auto& [expert, share, rows] : most_missed(input, &expert_load::is_dormant, settings.add_masked_share)) {
    proposals.push_back({change_presence{expert, change_presence::verb::add, false}, "progressive addition",
                         fmt::format("{:.1f} % of the gate probability of {} rows went to it while it was not there "
                                     "(added from {:.1f} %)",
                                     100 * share, rows, 100 * settings.add_masked_share)});
  }
  return proposals;
}

}  // namespace troupe::coordinator
