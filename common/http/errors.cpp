#include "common/http/errors.hpp"

#include <nlohmann/json.hpp>

namespace troupe::http {
namespace {

std::string_view type_of(unsigned status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

}  // namespace

unsigned to_status(errc code) {
  switch (code) {
    case errc::invalid_request:
    case errc::corrupt:
    case errc::wrong_version:
      return 400;
    case errc::permission_denied:
    case errc::wrong_cluster:
    case errc::handshake_required:
      return 403;
    case errc::not_found:
    case errc::unknown_expert:
      return 404;
    case errc::conflict:
    case errc::in_progress:
      return 409;
    case errc::too_large:
      return 413;
    case errc::overloaded:
      return 429;
    case errc::cancelled:
      return 499;
    case errc::unavailable:
    case errc::stale_epoch:
      return 503;
    case errc::timeout:
      return 504;
    case errc::no_space:
    case errc::out_of_memory:
    case errc::internal:
      return 500;
  }
  return 500;
}

response error_response(unsigned status, std::string_view code, std::string_view message, std::string_view param) {
  nlohmann::json body;
  body["error"] = {{"message", message}, {"type", type_of(status)}, {"code", code}};
  body["error"]["param"] = param.empty() ? nlohmann::json(nullptr) : nlohmann::json(param);
  // Bytes of a client may be quoted in the message: anything that is not UTF-8 is replaced, never passed on.
  response answer{.status = status, .body = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
  if (status == 429 || status == 503) answer.headers.emplace_back("Retry-After", "1");
  return answer;
}

response to_response(const error& e, std::string_view param) {
  auto answer = error_response(to_status(e.code), to_string(e.code), e.message, param);
  if (!is_retryable(e.code)) answer.headers.emplace_back("x-should-retry", "false");
  return answer;
}

}  // namespace troupe::http
