// Dynamic pruning: an expert with hardly any of its layer's traffic for a long time is taken out; restore brings it
// back.
#include <algorithm>
#include <numeric>
#include <tuple>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/policies/policy.hpp"

namespace troupe::coordinator {

std::vector<proposal> propose_prunes(const policy_input& input, const policy_settings& settings) {
  std::vector<std::tuple<double, expert_id, std::uint64_t, std::uint64_t>> coldest;  // by layer
  for (const auto& layer : input.layers) {
    if (layer.is_changing) continue;
    auto rows = std::accumulate(layer.experts.begin(), layer.experts.end(), std::uint64_t{0},
                                [](auto sum, const expert_load& expert) { return sum + expert.long_rows; });
    if (rows < limits::policy_rows_min) continue;
    const expert_load* least = nullptr;
    for (const auto& expert : layer.experts) {
      if (!expert.is_present || expert.is_fixed || !expert.was_watched) continue;
      if (least == nullptr || expert.long_rows < least->long_rows) least = &expert;
    }
    if (least == nullptr) continue;
    auto share = static_cast<double>(least->long_rows) / static_cast<double>(rows);
    if (share >= settings.prune_share) continue;
    coldest.emplace_back(share, expert_id{layer.id, least->index}, least->long_rows, rows);
  }
  std::ranges::stable_sort(coldest, {}, [](const auto& item) { return std::get<0>(item); });
  std::vector<proposal> proposals;
  for (const auto& [share, expert, rows, of] : coldest) {
    auto hours = std::chrono::duration<double, std::ratio<3600>>(settings.prune_window).count();
    proposals.push_back({change_presence{expert, change_presence::verb::prune, false}, "pruning",
                         fmt::format("{} of its layer's {} rows in {:.1f} h were its own, {:.2f} % (pruned under "
                                     "{:.1f} %)",
                                     rows, of, hours, 100 * share, 100 * settings.prune_share)});
  }
  return proposals;
}

}  // namespace troupe::coordinator
