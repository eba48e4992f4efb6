#include "coordinator/core/policies/missed_experts.hpp"

#include <algorithm>
#include <functional>

#include "common/limits.hpp"

namespace troupe::coordinator {

std::vector<missed_expert> most_missed(const policy_input& input, bool expert_load::*may_come, double share_min) {
  std::vector<missed_expert> missed;
  for (const auto& layer : input.layers) {
    if (layer.is_changing) continue;
    const expert_load* most = nullptr;
    for (const auto& expert : layer.experts) {
      if (!(expert.*may_come) || expert.masked_rows < limits::policy_rows_min) continue;
      if (most == nullptr || expert.masked_share > most->masked_share) most = &expert;
    }
    if (most == nullptr || most->masked_share < share_min) continue;
    missed.push_back({{layer.id, most->index}, most->masked_share, most->masked_rows});
  }
  std::ranges::stable_sort(missed, std::ranges::greater{}, &missed_expert::share);
  return missed;
}

}  // namespace troupe::coordinator
