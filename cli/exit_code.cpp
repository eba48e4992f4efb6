#include "cli/exit_code.hpp"

namespace troupe::cli {

exit_code exit_code_of(errc code) {
  switch (code) {
    case errc::unavailable:
      return exit_code::unreachable;
    case errc::timeout:
      return exit_code::timed_out;
    case errc::permission_denied:
    case errc::conflict:
    case errc::overloaded:
    case errc::wrong_cluster:
    case errc::in_progress:
      return exit_code::refused;
    case errc::cancelled:
      return exit_code::interrupted;
    default:
      return exit_code::failed;
  }
}

}  // namespace troupe::cli
