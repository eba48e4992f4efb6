// What the process returns to the shell; the numbers are a promise (docs/cli.md).
#pragma once

#include "common/error.hpp"

namespace troupe::cli {

enum class exit_code : int {
  ok = 0,
  failed = 1,
  usage = 2,        // a flag or verb that does not exist, or a value that can never be right
  unreachable = 3,  // no cluster, or it does not answer
  refused = 4,      // by policy, by missing rights, or by something that is in the way
  timed_out = 5,
  partly = 6,  // some of what was asked for was done
  interrupted = 130,
};

[[nodiscard]] exit_code exit_code_of(errc code);

}  // namespace troupe::cli
