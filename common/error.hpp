// The one error type of the project. Errors are values; exceptions stop at library borders.
//
// A message says what happened, to which object, and after a ';' what to do next:
//   "unknown expert 3/71; layer 3 has experts 0-63"
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <tl/expected.hpp>

namespace troupe {

// The numbers go over the wire (proto ErrorCode mirrors them): append, never renumber.
enum class errc : std::uint8_t {
  invalid_request = 1,      // malformed or contradictory input; the same request can never succeed
  not_found = 2,            // no such layer, expert, node or operation
  unavailable = 3,          // no replica, no coordinator, not ready: may heal, retry later
  timeout = 4,              // the deadline passed before the answer was complete
  overloaded = 5,           // a bound on rows, bytes or connections is reached: retry later
  permission_denied = 6,    // the peer's key or role does not allow this
  conflict = 7,             // refused by policy or by another operation in progress
  internal = 8,             // a bug or an unexpected system failure
  stale_epoch = 9,          // the sender's map or term is older than the receiver's
  unknown_expert = 10,      // this node does not hold that (expert, version)
  too_large = 11,           // above a limit that the handshake announced
  wrong_version = 12,       // the peer speaks another wire version
  wrong_cluster = 13,       // the peer belongs to another cluster or launch
  corrupt = 14,             // a checksum or digest does not match
  no_space = 15,            // disk full
  out_of_memory = 16,       // no free slot, or an allocation failed
  handshake_required = 17,  // the connection has not said hello yet
  in_progress = 18,         // a request with this id is being executed already
  cancelled = 19,           // the caller went away or asked to stop
};

[[nodiscard]] std::string_view to_string(errc code);

// May the same request succeed later without being changed?
[[nodiscard]] constexpr bool is_retryable(errc code) {
  switch (code) {
    case errc::unavailable:
    case errc::timeout:
    case errc::overloaded:
    case errc::stale_epoch:
    case errc::in_progress:
    case errc::handshake_required:
      return true;
    default:
      return false;
  }
}

struct error {
  errc code{errc::internal};
  std::string message;
};

template <class T>
using result = tl::expected<T, error>;

// `return fail(errc::not_found, fmt::format(...))` from any function that returns a result.
[[nodiscard]] inline tl::unexpected<error> fail(errc code, std::string message) {
  return tl::unexpected<error>{error{code, std::move(message)}};
}

// Passes the error of one result on through a function that returns another kind of result.
[[nodiscard]] inline tl::unexpected<error> fail(error e) { return tl::unexpected<error>{std::move(e)}; }

}  // namespace troupe
