// CURVE keys of a cluster on this machine: one per daemon, one for its clients, one for whoever administers it. Files
// under DATA/keys (0600), public keys and roles in DATA/keys/authorized. Any thread.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/context.hpp"
#include "common/error.hpp"

namespace troupe::cli {

// Makes the keys that are missing for the plan's processes, lists all of them as authorised and fills the plan's
// client_key, admin_key and server_keys.
[[nodiscard]] result<void> make_credentials(const std::filesystem::path& data_dir, cluster_context& plan);

struct credential {
  std::string name;
  std::string role;
  std::string public_key;
  bool has_secret{};  // DATA/keys/NAME.key is here too
};

// Makes a key pair and authorises it. conflict when the name is taken.
[[nodiscard]] result<credential> make_credential(const std::filesystem::path& data_dir, const std::string& name,
                                                 const std::string& role);
// Takes the key off the list and removes its files: nobody is let in with it any more. Keys are looked at when a
// connection is made, so what is connected stays so until it connects anew. not_found with near misses.
[[nodiscard]] result<credential> revoke_credential(const std::filesystem::path& data_dir, const std::string& name);
// What DATA/keys/authorized lists.
[[nodiscard]] result<std::vector<credential>> list_credentials(const std::filesystem::path& data_dir);

}  // namespace troupe::cli
