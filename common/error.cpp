#include "common/error.hpp"

namespace troupe {

std::string_view to_string(errc code) {
  switch (code) {
    case errc::invalid_request:
      return "invalid_request";
    case errc::not_found:
      return "not_found";
    case errc::unavailable:
      return "unavailable";
    case errc::timeout:
      return "timeout";
    case errc::overloaded:
      return "overloaded";
    case errc::permission_denied:
      return "permission_denied";
    case errc::conflict:
      return "conflict";
    case errc::internal:
      return "internal";
    case errc::stale_epoch:
      return "stale_epoch";
    case errc::unknown_expert:
      return "unknown_expert";
    case errc::too_large:
      return "too_large";
    case errc::wrong_version:
      return "wrong_version";
    case errc::wrong_cluster:
      return "wrong_cluster";
    case errc::corrupt:
      return "corrupt";
    case errc::no_space:
      return "no_space";
    case errc::out_of_memory:
      return "out_of_memory";
    case errc::handshake_required:
      return "handshake_required";
    case errc::in_progress:
      return "in_progress";
    case errc::cancelled:
      return "cancelled";
  }
  return "unknown";
}

}  // namespace troupe
