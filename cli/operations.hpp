// Operations as the command line shows them, and waiting for one. One thread.
#pragma once

#include <chrono>
#include <string>

#include "cli/application.hpp"

namespace troupe::cli {

// `one`: a page about one operation, else a row of `op list`.
[[nodiscard]] view operation_view(bool one);
// One entry of the list; not_found says where to look.
[[nodiscard]] result<json> find_operation(admin_client& coordinator, const std::string& id);

// Until the operation has ended: shows progress, prints it. The cluster goes on by itself when the person stops waiting
// (interrupted) or the time is over (timeout). Failed and rolled back: conflict with the reason; `cancelled_is_good`:
// it was asked for.
[[nodiscard]] result<exit_code> wait_for_operation(const session& s, admin_client& coordinator, const std::string& id,
                                                   std::chrono::milliseconds timeout, bool cancelled_is_good);

// After a command: prints the answer of a dry run, of --no-wait and of what was done at once; waits for the rest.
[[nodiscard]] result<exit_code> finish_operation(const session& s, admin_client& coordinator, const json& answer,
                                                 std::chrono::milliseconds timeout, bool cancelled_is_good = false);

}  // namespace troupe::cli
