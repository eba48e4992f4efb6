#include "client/cpp/target.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "client/cpp/include/troupe/client.hpp"
#include "common/wire/address.hpp"
#include "common/wire/keys.hpp"

namespace troupe::client {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The fields of DATA/context.json that a client needs.
struct known_cluster {
  std::string cluster_id;
  fs::path client_key;
  std::vector<std::string> addresses;
  std::map<std::string, std::string> server_keys;  // address -> public key
};

fs::path context_folder(const fs::path& chosen) {
  if (!chosen.empty()) return chosen;
  if (const char* variable = std::getenv("TROUPE_DATA_DIR"); variable != nullptr && *variable != '\0') return variable;
  const char* home = std::getenv("HOME");
  return fs::path(home != nullptr ? home : "/") / ".local/state/troupe/default";
}

known_cluster read_fields(const fs::path& folder, const json& document) {
  known_cluster known;
  known.cluster_id = document.value("cluster_id", "");
  known.client_key = folder / document.value("client_key", "keys/client.key");
  const auto keys = document.value("server_keys", json::object());
  for (const auto& router : document.value("routers", json::array())) {
    const auto address = router.value("client", "");
    if (address.empty()) continue;
    known.addresses.push_back(address);
    const auto name = router.value("name", "");
    if (keys.contains(name)) known.server_keys[address] = keys.at(name).get<std::string>();
  }
  if (known.addresses.empty() && !document.value("client", "").empty()) {
    known.addresses.push_back(document.at("client").get<std::string>());
  }
  return known;
}

result<known_cluster> read_context(const fs::path& folder) {
  const auto path = folder / "context.json";
  std::ifstream file(path);
  if (!file) {
    return fail(errc::unavailable,
                fmt::format("no cluster is known in {}; start one with 'troupe up', or set data_dir", folder.string()));
  }
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    auto known = read_fields(folder, json::parse(text));
    if (!known.addresses.empty()) return known;
    return fail(errc::unavailable, fmt::format("{} names no router; 'troupe status' tells what runs", path.string()));
  } catch (const json::exception& cause) {
    return fail(errc::invalid_request, fmt::format("{} is damaged ({}); start the cluster anew with 'troupe up'",
                                                   path.string(), cause.what()));
  }
}

// The keys for one address: our own pair, and the public key of whoever listens there.
result<router_address> with_keys(const std::string& address, const wire::key_pair& own, const known_cluster& known) {
  const auto found = known.server_keys.find(address);
  const auto& server = found != known.server_keys.end() ? found->second : own.server_key;
  if (server.empty()) {
    return fail(errc::invalid_request,
                fmt::format("the public key of the router at {} is not known; add a line 'server KEY' to the key file",
                            address));
  }
  return router_address{address, wire::curve_client{server, own.public_key, own.secret_key}};
}

result<known_cluster> find_cluster(const connect_options& options) {
  if (options.addresses.empty()) return read_context(context_folder(options.data_dir));
  // Keys made by `troupe up` lie in DATA/keys, beside the context that knows the routers' public keys.
  const auto folder = options.key_file.empty() || !options.data_dir.empty()
                          ? context_folder(options.data_dir)
                          : fs::absolute(options.key_file).parent_path().parent_path();
  auto known = read_context(folder);
  return known ? std::move(*known) : known_cluster{};
}

}  // namespace

result<target> resolve(const connect_options& options) {
  auto known = find_cluster(options);
  if (!known) return fail(std::move(known.error()));
  const auto& addresses = options.addresses.empty() ? known->addresses : options.addresses;
  const bool is_known = std::all_of(addresses.begin(), addresses.end(), [&](const std::string& address) {
    return std::find(known->addresses.begin(), known->addresses.end(), address) != known->addresses.end();
  });
  target made;
  if (is_known) made.cluster_id = known->cluster_id;
  std::optional<wire::key_pair> own;
  for (const auto& address : addresses) {
    if (!wire::needs_curve(address)) {
      if (!address.starts_with("ipc://")) {
        return fail(errc::invalid_request,
                    fmt::format("router address is '{}'; write tcp://HOST:PORT or ipc:///PATH", address));
      }
      made.routers.push_back({address, std::nullopt});
      continue;
    }
    if (!own) {
      if (options.key_file.empty() && !is_known) {
        return fail(errc::invalid_request,
                    fmt::format("{} needs keys; set key_file, or data_dir of the cluster it belongs to", address));
      }
      auto loaded = wire::load_key_pair(options.key_file.empty() ? known->client_key : options.key_file);
      if (!loaded) return fail(std::move(loaded.error()));
      own = std::move(*loaded);
    }
    auto router = with_keys(address, *own, *known);
    if (!router) return fail(std::move(router.error()));
    made.routers.push_back(std::move(*router));
  }
  return made;
}

}  // namespace troupe::client
