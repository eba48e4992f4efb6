// Which experts rows miss most while they take no part, for the policies that let one take part (again). Pure.
#pragma once

#include <vector>

#include "coordinator/core/policies/policy.hpp"

namespace troupe::coordinator {

struct missed_expert {
  expert_id expert;
  double share{};        // of the layer's gate probability that went to it
  std::uint64_t rows{};  // that were gated meanwhile
};

// Of each settled layer the one with the largest share, from `share_min` on, among those with `may_come`; the largest
// share first.
[[nodiscard]] std::vector<missed_expert> most_missed(const policy_input& input, bool expert_load::*may_come,
                                                     double share_min);

}  // namespace troupe::coordinator
