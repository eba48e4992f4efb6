#include "cli/launch_plan.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <thread>

#include "cli/ports.hpp"
#include "cli/remote.hpp"
#include "cli/render.hpp"
#include "cli/terminal.hpp"
#include "common/limits.hpp"
#include "coordinator/core/policies/policy_words.hpp"
#include "model/description.hpp"
#include "model/gating.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

// sockaddr_un holds 108 bytes with the terminating zero.
constexpr std::size_t socket_path_bytes_max = 107;
constexpr std::string_view longest_socket_name = "/coordinator.heartbeat.ipc";
// What packing may add to a bundle: each tensor starts on a page of its own in the worst layout.
constexpr std::uint64_t packing_bytes_per_tensor = 4096;
constexpr double memory_share = 0.8;

std::uint64_t meminfo_available() {
  std::ifstream file{"/proc/meminfo"};
  std::string key;
  std::uint64_t kib = 0;
  for (std::string line; std::getline(file, line);) {
    if (std::sscanf(line.c_str(), "MemAvailable: %lu kB", &kib) == 1) return kib * limits::kib;
  }
  return 0;
}

// What the cgroup of this process still allows; UINT64_MAX without a limit.
std::uint64_t cgroup_available() {
  std::uint64_t limit = UINT64_MAX;
  std::uint64_t used = 0;
  std::ifstream{"/sys/fs/cgroup/memory.max"} >> limit;  // "max" leaves 0 behind
  std::ifstream{"/sys/fs/cgroup/memory.current"} >> used;
  if (limit == 0 || limit == UINT64_MAX) return UINT64_MAX;
  return limit > used ? limit - used : 0;
}

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

std::vector<std::string> daemon_command(const launch_inputs& inputs, const std::string& program,
                                        const std::string& name, const std::string& http) {
  return {(inputs.programs / program).string(),
          "--name",
          name,
          "--data-dir",
          inputs.data_dir.string(),
          "--run-dir",
          inputs.run_dir.string(),
          "--model",
          inputs.model.string(),
          "--http",
          http};
}

// Hands out ports that nobody else of this plan has.
class port_allocator {
 public:
  result<std::uint16_t> take(const std::string& host, unsigned count = 1) {
    auto first = find_free_ports(host, count, taken_);
    for (unsigned i = 0; first && i < count; ++i) taken_.push_back(static_cast<std::uint16_t>(*first + i));
    return first;
  }
  result<std::string> http_address(const std::string& host) {
    return take(host).map([&](std::uint16_t port) { return fmt::format("{}:{}", host, port); });
  }
  void exclude(std::uint16_t port) { taken_.push_back(port); }

 private:
  std::vector<std::uint16_t> taken_;
};

std::string loopback(std::uint32_t port) { return fmt::format("tcp://127.0.0.1:{}", port); }

// Ports on machines where nobody can look for free ones: distances from the first. docs/cli.md has the table.
namespace offset {
constexpr std::uint32_t router = 0;
constexpr std::uint32_t router_http = 100;
constexpr std::uint32_t coordinator = 200;  // and heartbeats, and admin
constexpr std::uint32_t coordinator_http = 203;
constexpr std::uint32_t expert = 300;  // two each: data and peers
constexpr std::uint32_t expert_http = 500;
}  // namespace offset

class planner {
 public:
  planner(const launch_inputs& inputs, const cluster_options& options) : inputs_{inputs}, options_{options} {
    plan_.cluster_id = inputs.cluster_id;
    plan_.model = inputs.model;
    plan_.model_fingerprint = inputs.model_fingerprint;
    plan_.run_dir = inputs.run_dir;
    plan_.options = options;
    for (const auto& share : inputs.machines) plan_.machines.push_back(share.where);
  }

  result<cluster_context> run() {
    if (!inputs_.machines.empty()) return run_on_machines();
    auto http = parse_host_port(options_.http);
    if (!http) return fail(http.error());
    if (http->port != 0) {
      if (auto free = check_port_is_free(*http); !free) return fail(free.error());
      ports_.exclude(http->port);
    }
    if (auto done = add_coordinator(); !done) return fail(done.error());
    for (std::uint32_t i = 0; i < options_.expert_nodes; ++i) {
      if (auto done = add_expert(fmt::format("expert-{}", i)); !done) return fail(done.error());
    }
    for (std::uint32_t i = 0; i < options_.routers; ++i) {
      auto address = i == 0 && http->port != 0 ? result<std::string>{http->text()} : ports_.http_address(http->host);
      if (!address) return fail(address.error());
      if (auto done = add_router(fmt::format("router-{}", i), *address); !done) return fail(done.error());
    }
    return plan_;
  }

 private:
  result<cluster_context> run_on_machines() {
    const auto& first = inputs_.machines.front().where;
    const std::uint32_t port = inputs_.machines.front().port;
    const auto control = port + offset::coordinator;
    plan_.coordinator_http = fmt::format("http://127.0.0.1:{}", port + offset::coordinator_http);
    plan_.control = tcp_at(first, control);
    plan_.heartbeat = tcp_at(first, control + 1);
    plan_.admin = tcp_at(first, control + 2);
    auto command = coordinator_command(plan_.coordinator_http.substr(7));
    command.insert(command.end(), {"--listen", plan_.control});
    put(first, "coordinator", "coordinator", std::move(command));
    std::uint32_t expert = 0;
    std::uint32_t router = 0;
    for (const auto& share : inputs_.machines) {
      for (std::uint32_t i = 0; i < share.expert_nodes; ++i) put_expert(share, expert++, i);
      for (std::uint32_t i = 0; i < share.routers; ++i) {
        if (auto done = put_router(share, router++, i); !done) return fail(done.error());
      }
    }
    return plan_;
  }

  static std::string tcp_at(const machine& where, std::uint32_t port) {
    return fmt::format("tcp://{}:{}", where.address, port);
  }

  void put(const machine& where, const char* role, const std::string& name, std::vector<std::string> command) {
    if (where.is_remote()) {
      // The folder for sockets may be a temporary one of this machine.
      *(std::ranges::find(command, "--run-dir") + 1) = (inputs_.data_dir / "run").string();
      command = keeper_of(where, inputs_.programs / "troupe", command);
    }
    plan_.processes.push_back({role, name, {}, std::move(command), where.is_remote() ? where.name : ""});
  }

  void put_expert(const machine_share& share, std::uint32_t number, std::uint32_t here) {
    const auto name = fmt::format("expert-{}", number);
    const auto device = options_.device == "cuda" ? fmt::format("cuda:{}", here) : options_.device;
    auto command = expert_command(name, fmt::format("127.0.0.1:{}", share.port + offset::expert_http + here), device);
    command.insert(command.end(),
                   {"--zone", share.zone, "--listen", tcp_at(share.where, share.port + offset::expert + 2 * here)});
    put(share.where, "expert", name, std::move(command));
  }

  // HTTP is open to other machines where clients need keys, or where it was said that they need none.
  result<void> put_router(const machine_share& share, std::uint32_t number, std::uint32_t here) {
    const auto name = fmt::format("router-{}", number);
    auto http = parse_host_port(options_.http);
    if (!http) return fail(http.error());
    const bool is_open = !options_.api_key_file.empty() || options_.no_auth;
    if (options_.http == cluster_options{}.http && is_open) http->host = share.where.address;
    if (http->port == 0 || number > 0) {
      http->port = static_cast<std::uint16_t>(share.port + offset::router_http + here);
    }
    const auto client = tcp_at(share.where, share.port + offset::router + here);
    auto command = router_command(name, http->text());
    command.insert(command.end(), {"--listen", client});
    if (http->host == "0.0.0.0") http->host = share.where.address;
    plan_.routers.push_back({name, client, "http://" + http->text()});
    put(share.where, "router", name, std::move(command));
    return {};
  }

  [[nodiscard]] bool tcp() const { return options_.transport == "tcp"; }
  [[nodiscard]] std::string ipc(const std::string& socket) const {
    return fmt::format("ipc://{}/{}.ipc", inputs_.run_dir.string(), socket);
  }

  [[nodiscard]] std::vector<std::string> coordinator_command(const std::string& http) const {
    auto command = daemon_command(inputs_, "troupe-coordinator", "coordinator", http);
    const auto in_seconds = [](std::chrono::milliseconds time) {
      return std::to_string(time / std::chrono::seconds{1});
    };
    const auto add = [&](const char* flag, std::string value) {
      command.insert(command.end(), {flag, std::move(value)});
    };
    add("--replication", std::to_string(options_.replication));
    add("--expert-nodes", std::to_string(options_.expert_nodes));
    add("--active-experts", std::to_string(options_.active_experts));
    add("--cluster-id", inputs_.cluster_id);
    add("--policies", options_.policies);
    add("--add-queue-rows", std::to_string(options_.add_queue_rows));
    add("--prune-share", fmt::format("{}", options_.prune_share));
    add("--prune-window-seconds", in_seconds(options_.prune_window));
    add("--cold-share", fmt::format("{}", options_.cold_share));
    add("--cold-stale-seconds", in_seconds(options_.cold_stale_after));
    add_route_groups(command);
    return command;
  }

  result<void> add_coordinator() {
    auto http = ports_.http_address("127.0.0.1");
    if (!http) return fail(http.error());
    plan_.coordinator_http = "http://" + *http;
    auto command = coordinator_command(*http);
    if (tcp()) {
      auto port = ports_.take("127.0.0.1", 3);
      if (!port) return fail(port.error());
      plan_.control = loopback(*port);
      plan_.heartbeat = loopback(*port + 1U);
      plan_.admin = loopback(*port + 2U);
      command.insert(command.end(), {"--listen", plan_.control});
    } else {
      plan_.control = ipc("coordinator.control");
      plan_.heartbeat = ipc("coordinator.heartbeat");
      plan_.admin = ipc("coordinator.admin");
    }
    plan_.processes.push_back({"coordinator", "coordinator", {}, std::move(command)});
    return {};
  }

  // One GPU for each expert node, numbered alike.
  [[nodiscard]] std::string device_of(const std::string& expert_node) const {
    return options_.device == "cuda" ? "cuda:" + expert_node.substr(expert_node.rfind('-') + 1) : options_.device;
  }

  [[nodiscard]] std::vector<std::string> expert_command(const std::string& name, const std::string& http,
                                                        const std::string& device) const {
    auto command = daemon_command(inputs_, "troupe-expert", name, http);
    command.insert(command.end(),
                   {"--dtype", options_.dtype, "--device", device, "--threads", std::to_string(inputs_.threads),
                    "--slots", std::to_string(inputs_.slots), "--coordinator", plan_.control});
    if (options_.link_gpus) command.emplace_back("--link-gpus");
    if (options_.allow_nonfinite) command.emplace_back("--allow-nonfinite");
    return command;
  }

  result<void> add_expert(const std::string& name) {
    auto http = ports_.http_address("127.0.0.1");
    if (!http) return fail(http.error());
    auto command = expert_command(name, *http, device_of(name));
    if (tcp()) {
      auto port = ports_.take("127.0.0.1", 2);  // data, and the next one for peers
      if (!port) return fail(port.error());
      command.insert(command.end(), {"--listen", loopback(*port)});
    }
    plan_.processes.push_back({"expert", name, {}, std::move(command)});
    return {};
  }

  [[nodiscard]] std::vector<std::string> router_command(const std::string& name, const std::string& http) const {
    auto command = daemon_command(inputs_, "troupe-router", name, http);
    command.insert(command.end(), {"--dtype", options_.dtype, "--coordinator", plan_.control, "--threads",
                                   std::to_string(inputs_.router_threads)});
    add_route_groups(command);
    if (options_.cold_reservoir_rows != 0)
      command.insert(command.end(), {"--cold-reservoir-rows", std::to_string(options_.cold_reservoir_rows)});
    if (!options_.record_trace.empty()) command.insert(command.end(), {"--record-trace", options_.record_trace});
    if (options_.explore_bias > 0)
      command.insert(command.end(), {"--explore-bias", fmt::format("{}", options_.explore_bias)});
    if (options_.pin_streams) command.emplace_back("--pin-streams");
    if (options_.kv_memory != 0) command.insert(command.end(), {"--kv-memory", std::to_string(options_.kv_memory)});
    if (!options_.api_key_file.empty()) command.insert(command.end(), {"--api-key-file", options_.api_key_file});
    if (options_.no_auth) command.emplace_back("--no-auth");
    return command;
  }

  result<void> add_router(const std::string& name, const std::string& http) {
    auto command = router_command(name, http);
    std::string client = ipc(name + ".client");
    if (tcp()) {
      auto port = ports_.take("127.0.0.1");
      if (!port) return fail(port.error());
      client = loopback(*port);
      command.insert(command.end(), {"--listen", client});
    }
    plan_.routers.push_back({name, client, "http://" + http});
    plan_.processes.push_back({"router", name, {}, std::move(command)});
    return {};
  }

  // The coordinator places by what the routers do.
  void add_route_groups(std::vector<std::string>& command) const {
    if (options_.route_groups == 0) return;
    command.insert(command.end(), {"--route-groups", std::to_string(options_.route_groups), "--route-groups-kept",
                                   std::to_string(options_.route_groups_kept)});
  }

  const launch_inputs& inputs_;
  const cluster_options& options_;
  cluster_context plan_;
  port_allocator ports_;
};

}  // namespace

machine_facts this_machine() {
  return {std::max(1U, std::thread::hardware_concurrency()), std::min(meminfo_available(), cgroup_available())};
}

std::uint64_t slot_bytes_of(const model::description& model, const std::string& dtype) {
  const auto asked = dtype == "bf16" ? dtype::bf16 : dtype::f32;
  const std::uint64_t width = bytes_per_element(dtype == "auto" ? model::default_compute_type(model.stored) : asked);
  std::uint64_t largest = 0;
  for (const auto& layer : model.layers) {
    const auto& shape = layer.shape;
    const std::uint64_t products = model::is_gated(shape.act) ? 3 : 2;
    const std::uint64_t weights = products * shape.hidden * shape.width;
    const std::uint64_t biases = shape.has_bias ? (products - 1) * shape.width + shape.hidden : 0;
    largest = std::max(largest, weights * width + biases * 4 + products * packing_bytes_per_tensor);
  }
  return largest;
}

std::uint32_t default_threads(std::uint32_t cores, std::uint32_t expert_nodes) {
  return std::max(std::min(cores, 2U), cores / expert_nodes);
}

std::uint32_t expert_count_of(const model::description& model) {
  std::size_t count = 0;
  for (const auto& layer : model.layers) count += layer.experts.size();
  return static_cast<std::uint32_t>(count);
}

std::vector<std::uint32_t> experts_by_layer(const model::description& model) {
  std::vector<std::uint32_t> experts;
  for (const auto& layer : model.layers) experts.push_back(static_cast<std::uint32_t>(layer.experts.size()));
  return experts;
}

result<std::uint32_t> choose_slots(const cluster_options& options, const std::vector<std::uint32_t>& experts,
                                   std::uint64_t slot_bytes, const machine_facts& machine) {
  const std::uint64_t nodes = options.expert_nodes;
  const std::uint64_t survivors = std::max<std::uint64_t>(1, nodes - 1);
  const auto all = std::accumulate(experts.begin(), experts.end(), std::uint64_t{0});
  const std::uint64_t largest = experts.empty() ? 0 : *std::max_element(experts.begin(), experts.end());
  const std::uint64_t replicas = all * options.replication;
  const std::uint64_t needed = ceil_div(replicas, nodes);
  // No node ever holds a version of an expert twice, so it never needs more slots than there are experts.
  const std::uint64_t after_a_loss = std::min(ceil_div(replicas, survivors), all);
  const std::uint64_t in_a_refresh = ceil_div(replicas + largest * options.replication, nodes);
  const std::uint64_t wanted = std::max(after_a_loss, in_a_refresh);
  if (options.slots != 0) {
    if (options.slots >= needed) return options.slots;
    return fail(errc::invalid_request,
                fmt::format("{} slots on each of {} expert nodes cannot hold {} replicas; give --slots {} or more",
                            options.slots, nodes, replicas, needed));
  }
  const auto budget = static_cast<std::uint64_t>(static_cast<double>(machine.memory_available) * memory_share);
  const std::uint64_t affordable = slot_bytes == 0 ? wanted : budget / nodes / slot_bytes;
  if (affordable < needed) {
    return fail(
        errc::out_of_memory,
        fmt::format("{} expert replicas of {} need {}, and 80 % of the available memory is {}; use a machine with "
                    "more memory, a smaller --replication or --dtype bf16",
                    replicas, human_bytes(static_cast<double>(slot_bytes)),
                    human_bytes(static_cast<double>(replicas * slot_bytes)), human_bytes(static_cast<double>(budget))));
  }
  return static_cast<std::uint32_t>(std::min(wanted, affordable));
}

result<void> check_options(const cluster_options& options) {
  if (options.expert_nodes + options.routers + 1 > limits::nodes_max) {
    return fail(errc::invalid_request,
                fmt::format("{} expert nodes and {} routers are too many; a cluster has at most {} "
                            "processes",
                            options.expert_nodes, options.routers, limits::nodes_max));
  }
  if (options.replication > options.expert_nodes) {
    return fail(
        errc::invalid_request,
        fmt::format("--replication {} needs at least {} expert nodes, since no node holds an expert twice; give "
                    "--expert-nodes {} or a smaller --replication",
                    options.replication, options.replication, options.replication));
  }
  if (const auto http = parse_host_port(options.http); !http) {
    return fail(errc::invalid_request, fmt::format("--http: {}", http.error().message));
  }
  coordinator::policy_settings policies;
  if (const auto known = coordinator::switch_on(options.policies, policies); !known) {
    return fail(errc::invalid_request, "--policies: " + printable(known.error().message));
  }
  if (options.explore_bias > 0 && options.route_groups != 0) {
    return fail(errc::invalid_request, "--explore-bias and --route-groups: one approximation at a time; leave one out");
  }
  if (options.link_gpus && options.device != "cuda") {
    return fail(errc::invalid_request, "--link-gpus needs GPUs; give --device cuda, or leave it out");
  }
  return {};
}

result<void> check_options_for(const cluster_options& options, const model::description& model) {
  const model::group_limit limit{options.route_groups, options.route_groups_kept};
  if (auto gates = model::limit_groups(model, limit); !gates) return fail(gates.error());
  if (options.slots != 0) {
    // The memory is another matter.
    const machine_facts boundless{1, UINT64_MAX / 2};
    auto slots = choose_slots(options, experts_by_layer(model), 0, boundless);
    if (!slots) return fail(slots.error());
  }
  for (const auto& layer : model.layers) {
    if (options.active_experts == 0 || options.active_experts >= layer.gate.top_k) continue;
    return fail(errc::invalid_request,
                fmt::format("--active-experts {}: a row of layer {} chooses {}; give as many or more",
                            options.active_experts, to_string(layer.id), layer.gate.top_k));
  }
  return {};
}

result<cluster_context> plan_cluster(const launch_inputs& inputs, const cluster_options& options) {
  return planner{inputs, options}.run();
}

bool socket_paths_fit(const fs::path& run_dir) {
  return run_dir.string().size() + longest_socket_name.size() <= socket_path_bytes_max;
}

result<fs::path> make_run_dir(const fs::path& data_dir) {
  const fs::path preferred = data_dir / "run";
  if (socket_paths_fit(preferred)) {
    if (::mkdir(preferred.c_str(), 0700) == 0 || (errno == EEXIST && ::chmod(preferred.c_str(), 0700) == 0)) {
      return preferred;
    }
    return fail(errc::permission_denied, fmt::format("cannot make the folder {}: {}; choose another --data-dir",
                                                     preferred.string(), std::strerror(errno)));
  }
  std::string pattern = (fs::temp_directory_path() / "troupe-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr || !socket_paths_fit(pattern)) {
    return fail(errc::permission_denied,
                fmt::format("cannot make a folder for sockets like {}: {}; set TMPDIR to a short "
                            "path that can be written",
                            pattern, std::strerror(errno)));
  }
  return fs::path{pattern};
}

}  // namespace troupe::cli
