// The words by which people switch policies on.
#pragma once

#include <string_view>

#include "common/error.hpp"
#include "coordinator/core/policies/policy.hpp"

namespace troupe::coordinator {

// Switches on the policies of a list such as "add,prune"; those that are on stay on. invalid_request names the first
// word that is no policy.
[[nodiscard]] result<void> switch_on(std::string_view words, policy_settings& policies);

}  // namespace troupe::coordinator
