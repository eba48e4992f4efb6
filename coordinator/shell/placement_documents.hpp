// The JSON documents about why experts are where they are (docs/cli.md): stable names. Pure functions over what the
// core knows; called on the actor's thread.
#pragma once

#include <string>
#include <string_view>

#include "common/error.hpp"
#include "coordinator/core/cluster_state.hpp"
#include "coordinator/shell/documents.hpp"

namespace troupe::coordinator {

// Published epochs since this coordinator started, the newest last.
[[nodiscard]] std::string history_document(const cluster_state& state);
// `expert`: "3/17". invalid_request when it is written otherwise, not_found when the model has no such expert.
[[nodiscard]] result<std::string> explanation_document(const cluster_state& state, std::string_view expert);

}  // namespace troupe::coordinator
