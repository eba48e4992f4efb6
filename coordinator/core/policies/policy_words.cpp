#include "coordinator/core/policies/policy_words.hpp"

#include <sstream>
#include <string>

#include <fmt/format.h>

namespace troupe::coordinator {

result<void> switch_on(std::string_view words, policy_settings& policies) {
  std::istringstream names{std::string(words)};
  for (std::string name; std::getline(names, name, ',');) {
    if (name != "add" && name != "balance" && name != "prune") {
      return fail(errc::invalid_request, fmt::format("'{}' is no policy; there are add, balance and prune", name));
    }
    policies.adds = policies.adds || name == "add";
    policies.balances = policies.balances || name == "balance";
    policies.prunes = policies.prunes || name == "prune";
  }
  return {};
}

}  // namespace troupe::coordinator
