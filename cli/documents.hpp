// The cluster's documents from whoever has them: the coordinator, or while it is away a router, from its last map.
// One thread.
#pragma once

#include "cli/admin_client.hpp"
#include "cli/application.hpp"

namespace troupe::cli {

// As the coordinator's document (docs/cli.md). A router's answer lacks what only the coordinator knows; a note on
// standard error says so. unavailable when neither answers.
[[nodiscard]] result<json> fetch_document(const session& s, const query& what);

}  // namespace troupe::cli
