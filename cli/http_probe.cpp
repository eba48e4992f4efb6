#include "cli/http_probe.hpp"

#include <curl/curl.h>
#include <fmt/format.h>

#include <memory>

#include "common/limits.hpp"

namespace troupe::cli {
namespace {

std::size_t append_body(char* data, std::size_t size, std::size_t count, void* target) {
  auto& body = *static_cast<std::string*>(target);
  if (body.size() + size * count > limits::http_json_body_bytes_max) return 0;
  body.append(data, size * count);
  return size * count;
}

}  // namespace

result<http_answer> http_get(const std::string& url, std::chrono::milliseconds timeout) {
  const std::unique_ptr<CURL, decltype(&::curl_easy_cleanup)> handle{::curl_easy_init(), &::curl_easy_cleanup};
  if (!handle) return fail(errc::internal, "libcurl cannot start; is memory left?");
  http_answer answer;
  ::curl_easy_setopt(handle.get(), CURLOPT_URL, url.c_str());
  ::curl_easy_setopt(handle.get(), CURLOPT_TIMEOUT_MS, static_cast<long>(timeout.count()));
  ::curl_easy_setopt(handle.get(), CURLOPT_NOSIGNAL, 1L);
  ::curl_easy_setopt(handle.get(), CURLOPT_PROXY, "");
  ::curl_easy_setopt(handle.get(), CURLOPT_PROTOCOLS_STR, "http");
  ::curl_easy_setopt(handle.get(), CURLOPT_WRITEFUNCTION, &append_body);
  ::curl_easy_setopt(handle.get(), CURLOPT_WRITEDATA, &answer.body);
  const CURLcode code = ::curl_easy_perform(handle.get());
  if (code != CURLE_OK) {
    return fail(code == CURLE_OPERATION_TIMEDOUT ? errc::timeout : errc::unavailable,
                fmt::format("{} does not answer: {}; is the process running?", url, ::curl_easy_strerror(code)));
  }
  ::curl_easy_getinfo(handle.get(), CURLINFO_RESPONSE_CODE, &answer.status);
  return answer;
}

}  // namespace troupe::cli
