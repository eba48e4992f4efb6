#include "cli/credentials.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "cli/suggest.hpp"
#include "cli/terminal.hpp"
#include "common/wire/keys.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* client_name = "client";
constexpr const char* admin_name = "admin";

struct paths {
  explicit paths(const fs::path& data_dir) : keys{data_dir / "keys"}, authorized{keys / "authorized"} {}
  [[nodiscard]] fs::path secret(const std::string& name) const { return keys / (name + ".key"); }
  fs::path keys;
  fs::path authorized;
};

// The public key of `name`, made and authorised when it is new.
result<std::string> ensure_key(const paths& where, const std::string& name, wire::peer_role role) {
  auto pair = wire::load_key_pair(where.secret(name));
  if (!pair && pair.error().code == errc::not_found) {
    pair = wire::make_key_pair();
    if (!pair) return fail(pair.error());
    if (auto saved = wire::save_key_pair(where.keys, name, *pair); !saved) return fail(saved.error());
  }
  if (!pair) return fail(pair.error());
  if (auto listed = wire::add_authorized(where.authorized, {pair->public_key, role, name}); !listed) {
    return fail(listed.error());
  }
  return pair->public_key;
}

}  // namespace

result<void> make_credentials(const fs::path& data_dir, cluster_context& plan) {
  const paths where{data_dir};
  plan.server_keys.clear();
  for (const auto& process : plan.processes) {
    const auto role = wire::parse_peer_role(process.role);
    if (!role) return fail(errc::internal, fmt::format("no key role for a {}", process.role));
    auto key = ensure_key(where, process.name, *role);
    if (!key) return fail(key.error());
    plan.server_keys.emplace_back(process.name, *key);
  }
  if (auto key = ensure_key(where, client_name, wire::peer_role::client); !key) return fail(key.error());
  if (auto key = ensure_key(where, admin_name, wire::peer_role::admin); !key) return fail(key.error());
  plan.client_key = fmt::format("keys/{}.key", client_name);
  plan.admin_key = fmt::format("keys/{}.key", admin_name);
  return {};
}

result<credential> make_credential(const fs::path& data_dir, const std::string& name, const std::string& role) {
  const paths where{data_dir};
  const auto parsed = wire::parse_peer_role(role);
  if (!parsed) return fail(errc::invalid_request, fmt::format("unknown role {}; use client or admin", role));
  const auto existing = list_credentials(data_dir);
  if (!existing) return fail(existing.error());
  for (const auto& key : *existing) {
    if (key.name == name) {
      return fail(errc::conflict,
                  fmt::format("the key {} exists already; choose another name, or see troupe keys list", name));
    }
  }
  auto key = ensure_key(where, name, *parsed);
  if (!key) return fail(key.error());
  return credential{name, role, *key, true};
}

result<credential> revoke_credential(const fs::path& data_dir, const std::string& name) {
  const paths where{data_dir};
  const auto listed = list_credentials(data_dir);
  if (!listed) return fail(listed.error());
  const auto found = std::ranges::find(*listed, name, &credential::name);
  if (found == listed->end()) {
    std::vector<std::string> names;
    for (const auto& key : *listed) names.push_back(key.name);
    const auto hint = did_you_mean(name, names);
    return fail(errc::not_found,
                fmt::format("no key {}{}", printable(name), hint.empty() ? "; see: troupe keys list" : hint));
  }
  if (auto removed = wire::remove_authorized(where.authorized, name); !removed) return fail(removed.error());
  std::error_code ignored;
  fs::remove(where.secret(name), ignored);
  fs::remove(where.keys / (name + ".pub"), ignored);
  return credential{found->name, found->role, found->public_key, false};
}

result<std::vector<credential>> list_credentials(const fs::path& data_dir) {
  const paths where{data_dir};
  std::vector<credential> listed;
  const auto authorized = wire::load_authorized(where.authorized);
  if (!authorized && authorized.error().code == errc::not_found) return listed;
  if (!authorized) return fail(authorized.error());
  for (const auto& key : *authorized) {
    std::error_code ignored;
    listed.push_back({key.name, std::string{wire::to_string(key.role)}, key.public_key,
                      fs::exists(where.secret(key.name), ignored)});
  }
  return listed;
}

}  // namespace troupe::cli
