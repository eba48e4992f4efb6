// Progressive addition: a model starts with a few experts per layer; those that rows miss most are added while the ones
// that are there have more to do than they should.
#include <algorithm>
#include <numeric>
#include <tuple>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/policies/policy.hpp"

namespace troupe::coordinator {

std::vector<proposal> propose_additions(const policy_input& input, const policy_settings& settings) {
  auto waiting = std::accumulate(input.nodes.begin(), input.nodes.end(), std::uint64_t{0},
                                 [](auto sum, const node_load& node) { return sum + node.queue_rows; });
  if (waiting < settings.add_queue_rows) return {};
  std::vector<std::tuple<double, expert_id, std::uint64_t>> missed;  // by layer
  for (const auto& layer : input.layers) {
    if (layer.is_changing) continue;
    const expert_load* most = nullptr;
    for (const auto& expert : layer.experts) {
      if (!expert.is_dormant || expert.masked_rows < limits::policy_rows_min) continue;
      if (most == nullptr || expert.masked_share > most->masked_share) most = &expert;
    }
    if (most == nullptr || most->masked_share < settings.add_masked_share) continue;
    missed.emplace_back(most->masked_share, expert_id{layer.id, most->index}, most->masked_rows);
  }
  std::ranges::stable_sort(missed, std::ranges::greater{}, [](const auto& item) { return std::get<0>(item); });
  std::vector<proposal> proposals;
  for (const auto& [share, expert, rows] : missed) {
    proposals.push_back({change_presence{expert, change_presence::verb::add, false}, "progressive addition",
                         fmt::format("{:.1f} % of the gate probability of {} rows went to it while it was not there "
                                     "(added from {:.1f} %)",
                                     100 * share, rows, 100 * settings.add_masked_share)});
  }
  return proposals;
}

}  // namespace troupe::coordinator
