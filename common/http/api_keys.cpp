#include "common/http/api_keys.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

#include "common/http/errors.hpp"
#include "common/http/target.hpp"
#include "common/limits.hpp"

namespace troupe::http {
namespace {

std::string_view next_word(std::string_view& line) {
  const auto begin = std::min(line.find_first_not_of(" \t\r"), line.size());
  const auto end = std::min(line.find_first_of(" \t\r", begin), line.size());
  const auto word = line.substr(begin, end - begin);
  line.remove_prefix(end);
  return word;
}

bool is_visible(std::string_view word) {
  return std::ranges::all_of(word, [](char c) { return c > 0x20 && c < 0x7f; });
}

std::optional<std::string_view> bearer_of(const request& asked) {
  const auto* sent = find_header(asked.headers, "Authorization");
  if (sent == nullptr) return std::nullopt;
  std::string_view rest = *sent;
  if (!equal_ignoring_case(next_word(rest), "Bearer")) return std::nullopt;
  return next_word(rest);
}

response refusal(bool sent_one) {
  auto answer = error_response(401, "invalid_api_key",
                               sent_one ? "the API key is wrong; ask the operator for one"
                                        : "an API key is needed; send it as 'Authorization: Bearer KEY'");
  answer.headers.emplace_back("WWW-Authenticate", "Bearer");
  answer.headers.emplace_back("x-should-retry", "false");
  return answer;
}

bool is_loopback(std::string_view host) {
  return host == "localhost" || host == "::1" || host == "[::1]" || host.starts_with("127.");
}

}  // namespace

api_keys::digest api_keys::digest_of(std::string_view key) {
  digest out{};
  unsigned int bytes = 0;
  EVP_Digest(key.data(), key.size(), out.data(), &bytes, EVP_sha256(), nullptr);
  return out;
}

result<api_keys> api_keys::open(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text;
  if (in) text.assign(std::istreambuf_iterator<char>(in), {});
  if (!in || in.bad()) {
    return fail(errc::not_found, fmt::format("--api-key-file {} cannot be read; check path and rights", file.string()));
  }
  auto keys = parse(text);
  if (!keys) return fail(keys.error().code, fmt::format("--api-key-file {}: {}", file.string(), keys.error().message));
  return keys;
}

result<api_keys> api_keys::parse(std::string_view text) {
  api_keys made;
  if (text.size() > limits::authorized_file_bytes_max) {
    return fail(errc::too_large, fmt::format("larger than {} bytes", limits::authorized_file_bytes_max));
  }
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = std::min(text.find('\n'), text.size());
    auto line = text.substr(0, std::min(text.find('#'), end));
    text.remove_prefix(std::min(end + 1, text.size()));
    const auto key = next_word(line);
    const auto name = next_word(line);
    if (key.empty()) continue;
    if (key.size() < limits::api_key_bytes_min || !is_visible(key) || !next_word(line).empty() || !is_visible(name)) {
      return fail(errc::invalid_request, fmt::format("line {}: write KEY or KEY NAME; a key has at least {} visible "
                                                     "characters",
                                                     number, limits::api_key_bytes_min));
    }
    made.entries_.push_back({digest_of(key), name.empty() ? fmt::format("key-{}", number) : std::string(name)});
  }
  if (made.entries_.empty()) return fail(errc::invalid_request, "holds no key; write one per line");
  return made;
}

std::optional<std::string> api_keys::find(std::string_view key) const {
  const auto wanted = digest_of(key);
  const entry* found = nullptr;
  for (const auto& one : entries_) {
    if (CRYPTO_memcmp(one.key_digest.data(), wanted.data(), wanted.size()) == 0) found = &one;
  }
  return found == nullptr ? std::nullopt : std::optional(found->name);
}

std::vector<route> guard(std::vector<route> routes, std::shared_ptr<const api_keys> keys,
                         std::function<void(const std::string&)> on_refused) {
  for (auto& one : routes) {
    one.run = [inner = std::move(one.run), keys, on_refused](request asked, const std::shared_ptr<exchange>& answer) {
      const auto sent = bearer_of(asked);
      auto name = sent ? keys->find(*sent) : std::nullopt;
      if (!name) {
        if (on_refused) on_refused(asked.client);
        return answer->reply(refusal(sent.has_value()));
      }
      asked.client = std::move(*name);
      inner(std::move(asked), answer);
    };
  }
  return routes;
}

result<void> check_exposure(const std::string& address, bool has_keys, bool without_keys_on_purpose) {
  const auto parts = split_endpoint(address);
  if (!parts || is_loopback(parts->host) || has_keys || without_keys_on_purpose) return {};
  return fail(errc::invalid_request,
              fmt::format("--http {} is open to other machines and has no API keys; give --api-key-file FILE, or "
                          "--no-auth if everybody may use it",
                          address));
}

}  // namespace troupe::http
