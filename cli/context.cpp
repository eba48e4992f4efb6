#include "cli/context.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

json to_json(const cluster_options& options) {
  return {{"expert_nodes", options.expert_nodes},
          {"routers", options.routers},
          {"replication", options.replication},
          {"active_experts", options.active_experts},
          {"policies", options.policies},
          {"add_queue_rows", options.add_queue_rows},
          {"prune_share", options.prune_share},
          {"prune_window_ms", options.prune_window.count()},
          {"cold_share", options.cold_share},
          {"cold_stale_after_ms", options.cold_stale_after.count()},
          {"cold_reservoir_rows", options.cold_reservoir_rows},
          {"record_trace", options.record_trace},
          {"explore_bias", options.explore_bias},
          {"route_groups", options.route_groups},
          {"route_groups_kept", options.route_groups_kept},
          {"dtype", options.dtype},
          {"device", options.device},
          {"allow_nonfinite", options.allow_nonfinite},
          {"link_gpus", options.link_gpus},
          {"transport", options.transport},
          {"http", options.http},
          {"threads", options.threads},
          {"slots", options.slots},
          {"router_threads", options.router_threads},
          {"pin_streams", options.pin_streams},
          {"kv_memory", options.kv_memory},
          {"api_key_file", options.api_key_file},
          {"no_auth", options.no_auth}};
}

cluster_options options_from(const json& value) {
  cluster_options options;
  options.expert_nodes = value.at("expert_nodes");
  options.routers = value.at("routers");
  options.replication = value.at("replication");
  options.active_experts = value.value("active_experts", 0U);
  options.policies = value.value("policies", "");
  options.add_queue_rows = value.value("add_queue_rows", std::uint64_t{});
  options.prune_share = value.value("prune_share", options.prune_share);
  options.prune_window = std::chrono::milliseconds{value.value("prune_window_ms", options.prune_window.count())};
  options.cold_share = value.value("cold_share", options.cold_share);
  options.cold_stale_after =
      std::chrono::milliseconds{value.value("cold_stale_after_ms", options.cold_stale_after.count())};
  options.cold_reservoir_rows = value.value("cold_reservoir_rows", 0U);
  options.record_trace = value.value("record_trace", "");
  options.explore_bias = value.value("explore_bias", 0.0);
  options.route_groups = value.value("route_groups", 0U);
  options.route_groups_kept = value.value("route_groups_kept", options.route_groups_kept);
  options.dtype = value.at("dtype");
  options.device = value.at("device");
  options.allow_nonfinite = value.value("allow_nonfinite", false);
  options.link_gpus = value.value("link_gpus", false);
  options.transport = value.at("transport");
  options.http = value.at("http");
  options.threads = value.at("threads");
  options.slots = value.at("slots");
  options.router_threads = value.at("router_threads");
  options.pin_streams = value.value("pin_streams", false);
  options.kv_memory = value.at("kv_memory");
  options.api_key_file = value.at("api_key_file");
  options.no_auth = value.at("no_auth");
  return options;
}

json to_json(const cluster_context& context) {
  json routers = json::array();
  for (const auto& router : context.routers) {
    routers.push_back({{"name", router.name}, {"client", router.client}, {"http", router.http}});
  }
  json keys = json::object();
  for (const auto& [name, key] : context.server_keys) keys[name] = key;
  json processes = json::array();
  for (const auto& process : context.processes) {
    processes.push_back({{"role", process.role},
                         {"name", process.name},
                         {"pid", process.identity.pid},
                         {"start_ticks", process.identity.start_ticks},
                         {"command", process.command}});
    if (!process.machine.empty()) processes.back()["machine"] = process.machine;
  }
  json origins = json::object();
  for (const auto& [key, origin] : context.origins) origins[key] = {origin.kind, origin.where};
  json machines = json::array();
  for (const auto& one : context.machines) {
    machines.push_back({{"name", one.name}, {"address", one.address}, {"shell", one.shell}});
  }
  return {{"cluster_id", context.cluster_id},
          {"model", context.model.string()},
          {"model_fingerprint", context.model_fingerprint},
          {"run_dir", context.run_dir.string()},
          {"options", to_json(context.options)},
          {"origins", origins},
          {"machines", machines},
          {"coordinator",
           {{"control", context.control},
            {"heartbeat", context.heartbeat},
            {"admin", context.admin},
            {"http", context.coordinator_http}}},
          {"routers", routers},
          {"http", context.routers.empty() ? "" : context.routers.front().http},
          {"client", context.routers.empty() ? "" : context.routers.front().client},
          {"client_key", context.client_key},
          {"admin_key", context.admin_key},
          {"server_keys", keys},
          {"processes", processes}};
}

cluster_context context_from(const json& value) {
  cluster_context context;
  context.cluster_id = value.at("cluster_id");
  context.model = value.at("model").get<std::string>();
  context.model_fingerprint = value.at("model_fingerprint");
  context.run_dir = value.at("run_dir").get<std::string>();
  context.options = options_from(value.at("options"));
  const auto& coordinator = value.at("coordinator");
  context.control = coordinator.at("control");
  context.heartbeat = coordinator.at("heartbeat");
  context.admin = coordinator.at("admin");
  context.coordinator_http = coordinator.at("http");
  for (const auto& router : value.at("routers")) {
    context.routers.push_back({router.at("name"), router.at("client"), router.at("http")});
  }
  context.client_key = value.at("client_key");
  context.admin_key = value.at("admin_key");
  for (const auto& [name, key] : value.at("server_keys").items()) context.server_keys.emplace_back(name, key);
  for (const auto& process : value.at("processes")) {
    context.processes.push_back({process.at("role"),
                                 process.at("name"),
                                 {process.at("pid").get<pid_t>(), process.at("start_ticks").get<std::uint64_t>()},
                                 process.at("command").get<std::vector<std::string>>(),
                                 process.value("machine", "")});
  }
  const auto origins = value.value("origins", json::object());
  for (const auto& [key, origin] : origins.items()) context.origins[key] = {origin.at(0), origin.at(1)};
  const auto machines = value.value("machines", json::array());
  for (const auto& one : machines) {
    context.machines.push_back({one.at("name"), one.at("address"), one.at("shell").get<std::vector<std::string>>()});
  }
  return context;
}

tl::unexpected<error> system_failure(const fs::path& path, const char* what) {
  const int code = errno;
  const bool is_full = code == ENOSPC || code == EDQUOT;
  return fail(code == EACCES || code == EPERM ? errc::permission_denied : errc::internal,
              fmt::format("cannot {} {}: {} (user {}); {}", what, path.string(), std::strerror(code), ::getuid(),
                          is_full ? "free space on that disk, or choose another --data-dir"
                                  : "choose another --data-dir, or make it yours with mode 0700"));
}

result<void> make_private_dir(const fs::path& path) {
  std::error_code ignored;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), ignored);
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return system_failure(path, "make the folder");
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return system_failure(path, "look at");
  if (!S_ISDIR(found.st_mode)) {
    return fail(errc::invalid_request, fmt::format("{} is not a folder; choose another --data-dir", path.string()));
  }
  if (found.st_uid != ::getuid()) {
    return fail(errc::permission_denied, fmt::format("{} belongs to user {}, you are {}; choose another --data-dir",
                                                     path.string(), found.st_uid, ::getuid()));
  }
  if ((found.st_mode & 0777U) != 0700U && ::chmod(path.c_str(), 0700) != 0) return system_failure(path, "make private");
  if (::access(path.c_str(), W_OK | X_OK) != 0) return system_failure(path, "write to");
  return {};
}

}  // namespace

result<cluster_context> load_context(const fs::path& data_dir) {
  const fs::path path = data_dir / "context.json";
  std::ifstream file{path};
  if (!file) {
    return fail(errc::unavailable, fmt::format("no cluster in {}; start one with: troupe up --model DIR --data-dir {}",
                                               data_dir.string(), data_dir.string()));
  }
  const std::string text{std::istreambuf_iterator<char>{file}, {}};
  try {
    return context_from(json::parse(text));
  } catch (const json::exception& problem) {
    return fail(errc::corrupt,
                fmt::format("{} cannot be read: {}; remove it and run troupe up again", path.string(), problem.what()));
  }
}

result<void> save_context(const fs::path& data_dir, const cluster_context& context) {
  const fs::path path = data_dir / "context.json";
  const fs::path temporary = data_dir / "context.json.tmp";
  const std::string text = to_json(context).dump(2) + '\n';
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (descriptor < 0) return system_failure(temporary, "write");
  errno = ENOSPC;  // what a write that stops short means
  const bool written =
      ::write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && ::fsync(descriptor) == 0;
  ::close(descriptor);
  if (!written || ::rename(temporary.c_str(), path.c_str()) != 0) return system_failure(path, "write");
  return {};
}

result<fs::path> resolve_data_dir(const fs::path& explicit_dir) {
  std::error_code failure;
  if (!explicit_dir.empty()) {
    const auto absolute = fs::absolute(explicit_dir, failure).lexically_normal();
    return absolute.has_filename() ? absolute : absolute.parent_path();
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home != '/') {
    return fail(errc::invalid_request, "HOME is not set; say where the cluster's data is with --data-dir");
  }
  return fs::path{home} / ".local/state/troupe/default";
}

result<void> make_data_dir(const fs::path& data_dir) {
  for (const auto& folder : {data_dir, data_dir / "keys", data_dir / "log"}) {
    if (auto made = make_private_dir(folder); !made) return made;
  }
  return {};
}

std::vector<process_entry> running_processes(const cluster_context& context) {
  std::vector<process_entry> running;
  for (const auto& process : context.processes) {
    if (is_running(process.identity)) running.push_back(process);
  }
  return running;
}

}  // namespace troupe::cli
