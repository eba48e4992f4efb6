// Who may use the HTTP API: keys of a file, sent as "Authorization: Bearer KEY" (faults.md H1). Immutable, any thread.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/http/message.hpp"

namespace troupe::http {

class api_keys {
 public:
  // One "KEY" or "KEY NAME" per line, '#' begins a comment; a key without a name is called "key-N" after its line.
  // invalid_request naming the line; never the key.
  [[nodiscard]] static result<api_keys> open(const std::filesystem::path& file);
  [[nodiscard]] static result<api_keys> parse(std::string_view text);

  // The name of the key; nullopt for a wrong one. Takes the same time wherever a key differs, and whichever it is.
  [[nodiscard]] std::optional<std::string> find(std::string_view key) const;
  [[nodiscard]] std::size_t size() const { return entries_.size(); }

 private:
  using digest = std::array<unsigned char, 32>;
  struct entry {
    digest key_digest;
    std::string name;
  };
  [[nodiscard]] static digest digest_of(std::string_view key);
  std::vector<entry> entries_;
};

// The same routes, for holders of a key: others get a 401, and `on_refused` hears the address that they came from.
// request::client becomes the key's name.
[[nodiscard]] std::vector<route> guard(std::vector<route> routes, std::shared_ptr<const api_keys> keys,
                                       std::function<void(const std::string& client)> on_refused = {});

// invalid_request when an address beyond this machine would be open to everybody without `without_keys_on_purpose`.
[[nodiscard]] result<void> check_exposure(const std::string& address, bool has_keys, bool without_keys_on_purpose);

}  // namespace troupe::http
