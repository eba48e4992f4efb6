#include "common/daemon/serve.hpp"

#include <cstdio>

namespace troupe::daemon {

int complain(const error& reason, int code) {
  std::fprintf(stderr, "error: %s\n", reason.message.c_str());
  return reason.code == errc::conflict ? exit_config : code;
}

}  // namespace troupe::daemon
