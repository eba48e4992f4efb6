#include "common/wire/keys.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <utility>

#include "common/ids.hpp"
#include "common/limits.hpp"
#include "common/wire/files.hpp"

namespace troupe::wire {
namespace {

constexpr std::size_t z85_key_length = 40;
constexpr std::size_t binary_key_length = 32;
constexpr mode_t others = S_IRWXG | S_IRWXO;
constexpr mode_t others_write = S_IWGRP | S_IWOTH;

struct role_row {
  peer_role role;
  std::string_view name;
};
constexpr std::array<role_row, 5> role_table{{{peer_role::coordinator, "coordinator"},
                                              {peer_role::expert, "expert"},
                                              {peer_role::router, "router"},
                                              {peer_role::client, "client"},
                                              {peer_role::admin, "admin"}}};

// Calls `line(number, words)` for each line that counts; stops at the first error.
template <class Line>
result<void> each_line(std::string_view text, Line line) {
  std::istringstream lines{std::string(text)};
  std::string one;
  for (int number = 1; std::getline(lines, one); ++number) {
    std::istringstream in(one);
    std::vector<std::string> words;
    for (std::string word; in >> word;) words.push_back(std::move(word));
    if (words.empty() || words.front().starts_with('#')) continue;
    if (auto done = line(number, words); !done) return done;
  }
  return {};
}

std::filesystem::path with_ending(const std::filesystem::path& folder, std::string_view name, const char* ending) {
  return folder / (std::string(name) + ending);
}

result<authorized_key> parse_authorized_line(int number, const std::vector<std::string>& words) {
  const auto refuse = [number](std::string_view what) {
    return fail(errc::invalid_request,
                fmt::format("authorized keys, line {}: {}; write PUBLICKEY ROLE NAME", number, what));
  };
  if (words.size() != 3) return refuse(fmt::format("{} words", words.size()));
  if (!is_valid_key(words[0])) return refuse("the first word is no public key of 40 characters");
  const auto role = parse_peer_role(words[1]);
  if (!role) return refuse(fmt::format("unknown role '{}' (coordinator, expert, router, client, admin)", words[1]));
  if (!is_valid_node_name(words[2])) return refuse(fmt::format("'{}' is no name", words[2]));
  return authorized_key{words[0], *role, words[2]};
}

}  // namespace

// -- key pairs ----------------------------------------------------------------------------------------------------

result<key_pair> make_key_pair() {
  std::array<char, z85_key_length + 1> public_text{};
  std::array<char, z85_key_length + 1> secret_text{};
  if (auto made = zmq_check(zmq_curve_keypair(public_text.data(), secret_text.data()), "zmq_curve_keypair"); !made) {
    return fail(std::move(made.error()));
  }
  return key_pair{public_text.data(), secret_text.data(), {}};
}

bool is_valid_key(std::string_view z85) {
  if (z85.size() != z85_key_length) return false;
  // libzmq's decoder reads a table by character and only knows printable ASCII.
  if (!std::all_of(z85.begin(), z85.end(), [](char c) { return c > ' ' && c < 0x7f; })) return false;
  std::array<std::uint8_t, binary_key_length> binary{};
  return zmq_z85_decode(binary.data(), std::string(z85).c_str()) != nullptr;
}

result<void> save_key_pair(const std::filesystem::path& folder, std::string_view name, const key_pair& keys) {
  const auto secret_file = with_ending(folder, name, ".key");
  std::error_code ignored;
  if (std::filesystem::exists(secret_file, ignored)) {
    return fail(errc::conflict,
                fmt::format("{} exists; remove it first, or choose another name", secret_file.string()));
  }
  auto text =
      fmt::format("# Troupe key of {}: keep it secret\npublic {}\nsecret {}\n", name, keys.public_key, keys.secret_key);
  if (!keys.server_key.empty()) text += fmt::format("server {}\n", keys.server_key);
  if (auto saved = replace_file(secret_file, text, S_IRUSR | S_IWUSR); !saved) return saved;
  return replace_file(with_ending(folder, name, ".pub"), keys.public_key + "\n", 0644);
}

result<key_pair> load_key_pair(const std::filesystem::path& secret_file) {
  auto text = read_guarded_file(secret_file, others, limits::key_file_bytes_max);
  if (!text) return fail(std::move(text.error()));
  key_pair keys;
  // Never quote a line: it may be the secret.
  auto read = each_line(*text, [&](int number, const std::vector<std::string>& words) -> result<void> {
    std::string* field = nullptr;
    if (words.front() == "public") field = &keys.public_key;
    if (words.front() == "secret") field = &keys.secret_key;
    if (words.front() == "server") field = &keys.server_key;
    if (field == nullptr || words.size() != 2 || !is_valid_key(words[1])) {
      return fail(errc::invalid_request, fmt::format("{}, line {}: expected public, secret or server and a key of {} "
                                                     "characters; 'troupe keys gen' makes such files",
                                                     secret_file.string(), number, z85_key_length));
    }
    *field = words[1];
    return {};
  });
  if (!read) return fail(std::move(read.error()));
  std::array<char, z85_key_length + 1> derived{};
  if (keys.secret_key.empty() || zmq_curve_public(derived.data(), keys.secret_key.c_str()) != 0 ||
      keys.public_key != derived.data()) {
    return fail(errc::invalid_request, fmt::format("{}: the public and the secret key do not belong together; make a "
                                                   "new pair with 'troupe keys gen'",
                                                   secret_file.string()));
  }
  return keys;
}

result<std::string> load_public_key(const std::filesystem::path& public_file) {
  auto text = read_guarded_file(public_file, others_write, limits::key_file_bytes_max);
  if (!text) return fail(std::move(text.error()));
  std::istringstream in(*text);
  std::string key;
  in >> key;
  if (is_valid_key(key)) return key;
  return fail(errc::invalid_request,
              fmt::format("{} holds no public key of {} characters", public_file.string(), z85_key_length));
}

// -- who is authorised --------------------------------------------------------------------------------------------

std::string_view to_string(peer_role role) {
  for (const auto& row : role_table) {
    if (row.role == role) return row.name;
  }
  return "unknown";
}

std::optional<peer_role> parse_peer_role(std::string_view text) {
  for (const auto& row : role_table) {
    if (row.name == text) return row.role;
  }
  return std::nullopt;
}

std::string user_id_of(const authorized_key& key) { return fmt::format("{}:{}", to_string(key.role), key.name); }

std::optional<peer_role> role_of_user(std::string_view user_id) {
  const auto colon = user_id.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  return parse_peer_role(user_id.substr(0, colon));
}

result<std::vector<authorized_key>> parse_authorized(std::string_view text) {
  std::vector<authorized_key> keys;
  auto read = each_line(text, [&](int number, const std::vector<std::string>& words) -> result<void> {
    auto key = parse_authorized_line(number, words);
    if (!key) return fail(std::move(key.error()));
    keys.push_back(std::move(*key));
    return {};
  });
  if (!read) return fail(std::move(read.error()));
  return keys;
}

result<std::vector<authorized_key>> load_authorized(const std::filesystem::path& file) {
  auto text = read_guarded_file(file, others_write, limits::authorized_file_bytes_max);
  if (!text) return fail(std::move(text.error()));
  return parse_authorized(*text);
}

result<void> add_authorized(const std::filesystem::path& file, const authorized_key& key) {
  std::string text;
  if (auto old = read_guarded_file(file, others_write, limits::authorized_file_bytes_max)) {
    text = std::move(*old);
  } else if (old.error().code != errc::not_found) {
    return fail(std::move(old.error()));
  }
  auto known = parse_authorized(text);
  if (!known) return fail(std::move(known.error()));
  for (const auto& other : *known) {
    if (other == key) return {};
    if (other.public_key == key.public_key) {
      return fail(errc::conflict, fmt::format("{} has this key already, as {}", file.string(), user_id_of(other)));
    }
  }
  if (!text.empty() && text.back() != '\n') text.push_back('\n');
  text += fmt::format("{} {} {}\n", key.public_key, to_string(key.role), key.name);
  return replace_file(file, text, S_IRUSR | S_IWUSR);
}

result<void> remove_authorized(const std::filesystem::path& file, std::string_view name) {
  auto text = read_guarded_file(file, others_write, limits::authorized_file_bytes_max);
  if (!text) return fail(std::move(text.error()));
  if (auto good = parse_authorized(*text); !good) return fail(std::move(good.error()));
  std::istringstream lines{*text};
  std::string kept;
  bool is_found = false;
  for (std::string line; std::getline(lines, line);) {
    const auto keys = parse_authorized(line);
    const bool is_it = keys && !keys->empty() && keys->front().name == name;
    is_found = is_found || is_it;
    if (!is_it) kept += line + "\n";
  }
  if (!is_found) return fail(errc::not_found, fmt::format("{} lists no key of {}", file.string(), name));
  return replace_file(file, kept, S_IRUSR | S_IWUSR);
}

std::string zap_domain(std::span<const peer_role> allowed) {
  std::string domain;
  for (const auto role : allowed) {
    if (!domain.empty()) domain.push_back(',');
    domain += to_string(role);
  }
  return domain;
}

}  // namespace troupe::wire
