#include "coordinator/shell/daemon.hpp"

#include <unistd.h>

#include <array>
#include <fstream>
#include <optional>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <nlohmann/json.hpp>

#include "common/daemon/actors.hpp"
#include "common/daemon/data_folder.hpp"
#include "common/http/server.hpp"
#include "common/limits.hpp"
#include "common/wire/address.hpp"
#include "common/wire/keys.hpp"
#include "coordinator/core/policies/policy_words.hpp"
#include "coordinator/shell/control_server.hpp"
#include "coordinator/shell/coordinator_actor.hpp"
#include "coordinator/shell/folder_actor.hpp"
#include "coordinator/shell/heartbeat_server.hpp"
#include "coordinator/shell/metrics.hpp"
#include "coordinator/shell/sqlite_store.hpp"
#include "coordinator/shell/store_actor.hpp"
#include "model/checkpoint.hpp"

namespace troupe::coordinator {
namespace {

// The ports of a running process: everything goes to the socket threads or into the log.
class process_ports final : public coordinator_ports {
 public:
  control_server* control{};
  heartbeat_server* heartbeats{};

  void send(node_message message) override { control->send(message); }
  void publish(publication what) override { control->publish(what); }
  void reply(admin_reply answer) override { control->reply(answer); }
  void answer(const query_origin& to, result<std::string> json) override { control->answer(to, json); }
  void set_members(member_view view) override { heartbeats->set_members(std::move(view)); }
  void log(const operator_event& what) override {
    auto level = what.level == severity::error     ? spdlog::level::err
                 : what.level == severity::warning ? spdlog::level::warn
                                                   : spdlog::level::info;
    spdlog::log(level, "{}: {}", what.kind, what.text);
  }
};

// The launcher writes it before it starts the daemons.
std::string cluster_id_of_launcher(const std::filesystem::path& data_dir) {
  std::ifstream file(data_dir / "context.json");
  auto document = nlohmann::json::parse(file, nullptr, false);
  if (!document.is_object() || !document.contains("cluster_id") || !document["cluster_id"].is_string()) return "";
  return document["cluster_id"];
}

std::string new_cluster_id() {
  std::ifstream file("/proc/sys/kernel/random/uuid");
  std::string id;
  file >> id;
  return id;
}

std::string choose_cluster_id(const daemon_settings& settings, const durable_state& durable) {
  if (!settings.cluster_id.empty()) return settings.cluster_id;
  if (auto given = cluster_id_of_launcher(settings.data_dir); !given.empty()) return given;
  return durable.cluster ? durable.cluster->cluster_id : new_cluster_id();
}

struct addresses {
  std::string control;
  std::string heartbeat;
  std::string admin;
};

result<addresses> choose_addresses(const daemon_settings& settings) {
  addresses chosen;
  chosen.control = settings.listen.empty() ? fmt::format("ipc://{}/coordinator.control.ipc", settings.run_dir.string())
                                           : settings.listen;
  auto heartbeat = wire::sibling_address(chosen.control, wire::sibling::heartbeat);
  if (!heartbeat) return fail(heartbeat.error());
  auto admin = wire::sibling_address(chosen.control, wire::sibling::admin);
  if (!admin) return fail(admin.error());
  chosen.heartbeat = *heartbeat;
  chosen.admin = *admin;
  return chosen;
}

result<policy_settings> policies_from(const daemon_settings& settings) {
  policy_settings policies;
  policies.add_queue_rows = settings.add_queue_rows;
  policies.prune_share = settings.prune_share;
  policies.prune_window = std::chrono::seconds(settings.prune_window_seconds);
  if (!(policies.prune_share > 0 && policies.prune_share < 1) || settings.prune_window_seconds < 10) {
    return fail(errc::invalid_request, "--prune-share is between 0 and 1, --prune-window-seconds at least 10");
  }
  policies.cold_share = settings.cold_share;
  policies.cold_stale_after = std::chrono::seconds(settings.cold_stale_seconds);
  if (!(policies.cold_share >= 0 && policies.cold_share < 1) || settings.cold_stale_seconds == 0) {
    return fail(errc::invalid_request, "--cold-share is from 0 to below 1, --cold-stale-seconds at least 1");
  }
  if (auto known = switch_on(settings.policies, policies); !known) return fail(known.error());
  return policies;
}

result<cluster_settings> settings_from(const daemon_settings& settings, const model::description& model,
                                       std::string cluster_id) {
  cluster_settings core;
  core.cluster_id = std::move(cluster_id);
  core.model_fingerprint = model.fingerprint;
  core.replication = settings.replication;
  core.expert_nodes = settings.expert_nodes;
  core.active_experts = settings.active_experts;
  core.started_unix_ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  auto policies = policies_from(settings);
  if (!policies) return fail(policies.error());
  core.policies = *policies;
  auto gates = model::limit_groups(model, settings.groups);
  if (!gates) return fail(gates.error());
  core.route_groups = settings.groups;
  for (const auto& layer : model.layers) {
    core.gates.emplace(layer.id, (*gates)[core.gates.size()]);
    for (const auto& expert : layer.experts) core.experts.push_back({expert.id, expert.bytes()});
  }
  if (core.experts.empty()) {
    return fail(errc::invalid_request,
                fmt::format("{} has no MoE layer; give --model a MoE checkpoint", settings.model.string()));
  }
  return core;
}

// The new term must be on disk before anybody hears of it.
result<void> write_term(cluster_state_machine& machine, store& target) {
  auto first = machine.take_output();
  if (auto done = target.write(first.persist); !done) return done;
  for (const auto& what : first.events) spdlog::info("{}: {}", what.kind, what.text);
  machine.step(persist_result{first.ticket, std::nullopt}, std::chrono::steady_clock::now());
  return {};
}

}  // namespace

struct daemon_process::state {
  std::optional<daemon::instance_lock> lock;
  std::shared_ptr<store> records;
  std::shared_ptr<const model::checkpoint> served;
  addresses at;
  std::string cluster_id;
  document_context documents;
  std::shared_ptr<cluster_state_machine> machine;
  std::shared_ptr<public_view_box> view = std::make_shared<public_view_box>();
  http::metrics_registry metrics;
  std::unique_ptr<http::server> web;
  std::shared_ptr<wire::context> zmq;
  std::unique_ptr<wire::zap_handler> zap;
  std::shared_ptr<process_ports> ports = std::make_shared<process_ports>();
  std::unique_ptr<caf::actor_system_config> config;
  std::unique_ptr<caf::actor_system> system;
  coordinator_actor actor;
  std::unique_ptr<control_server> control;
  std::unique_ptr<heartbeat_server> heartbeats;

  result<void> open_store(const daemon_settings& settings);
  result<void> make_machine(const daemon_settings& settings, const durable_state& durable);
  result<void> open_sockets(const daemon_settings& settings);
  void start_actors();
  result<void> start_http(const daemon_settings& settings);
  void stop();
};

result<void> daemon_process::state::open_store(const daemon_settings& settings) {
  auto folder = settings.data_dir / "coordinator";
  for (const auto& path : {settings.data_dir, folder}) {
    if (auto ready = daemon::prepare_private_folder(path); !ready) return ready;
  }
  auto taken = daemon::instance_lock::take(folder / "lock");
  if (!taken) return fail(taken.error());
  lock.emplace(std::move(*taken));
  auto opened = open_sqlite_store(folder / "state.db");
  if (!opened) return fail(opened.error());
  records = std::move(*opened);
  return {};
}

result<void> daemon_process::state::make_machine(const daemon_settings& settings, const durable_state& durable) {
  auto checkpoint = model::checkpoint::open(settings.model);
  if (!checkpoint) return fail(checkpoint.error());
  served = std::make_shared<const model::checkpoint>(*std::move(checkpoint));
  const auto& model = served->model();
  auto core = settings_from(settings, model, choose_cluster_id(settings, durable));
  if (!core) return fail(core.error());
  cluster_id = core->cluster_id;
  documents.name = settings.name;
  documents.address = at.control;
  documents.pid = static_cast<std::uint64_t>(::getpid());
  documents.incarnation = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
  documents.model_name = model.name;
  documents.model_family = model.family;
  auto made = cluster_state_machine::create(*std::move(core), durable, std::chrono::steady_clock::now());
  if (!made) return fail(made.error());
  machine = std::make_shared<cluster_state_machine>(*std::move(made));
  return write_term(*machine, *records);
}

result<void> daemon_process::state::open_sockets(const daemon_settings& settings) {
  auto ctx = wire::context::make();
  if (!ctx) return fail(ctx.error());
  zmq = std::move(*ctx);
  wire::socket_options for_nodes;
  wire::socket_options for_admins;
  if (wire::needs_curve(at.control)) {
    auto keys = wire::load_key_pair(settings.data_dir / "keys" / (settings.name + ".key"));
    if (!keys) return fail(keys.error());
    auto handler =
        wire::zap_handler::start(zmq, settings.data_dir / "keys" / "authorized", [](const wire::zap_refusal& refusal) {
          spdlog::warn("refused a key from {}: {}", refusal.address, refusal.reason);
        });
    if (!handler) return fail(handler.error());
    zap = std::move(*handler);
    if (auto works = zap->self_test(); !works) return works;
    constexpr std::array nodes{wire::peer_role::expert, wire::peer_role::router};
    constexpr std::array admins{wire::peer_role::admin};
    for_nodes.server = wire::curve_server{keys->secret_key, wire::zap_domain(nodes)};
    for_admins.server = wire::curve_server{keys->secret_key, wire::zap_domain(admins)};
  }
  auto doors = control_server::bind(
      zmq, {at.control, at.admin, for_nodes, for_admins, cluster_id, settings.name, documents.incarnation,
            [this](event what) { caf::anon_send(actor, core_event{std::move(what)}); },
            [this](ask question) { caf::anon_send(actor, std::move(question)); }});
  if (!doors) return fail(doors.error());
  control = std::move(*doors);
  auto beats = heartbeat_server::bind(zmq, {at.heartbeat, for_nodes, cluster_id, [this](heartbeat beat) {
                                              caf::anon_send(actor, core_event{event{std::move(beat)}});
                                            }});
  if (!beats) return fail(beats.error());
  heartbeats = std::move(*beats);
  return {};
}

void daemon_process::state::start_actors() {
  config = std::make_unique<caf::actor_system_config>();
  daemon::use_one_sleeping_worker(*config);
  system = std::make_unique<caf::actor_system>(*config);
}

result<void> daemon_process::state::start_http(const daemon_settings& settings) {
  if (settings.http.empty()) return {};
  metrics.add(http::process_metrics());
  metrics.add(http::build_metrics(settings.version, settings.commit, "cpu"));
  metrics.add(coordinator_metrics(view));
  metrics.add(http::handshake_metrics([this] { return zap ? zap->refusals() : 0; }));
  http::probe_options probes;
  probes.build = {settings.version, settings.commit, "cpu"};
  probes.ready = [box = view] { return readiness(*box->get()); };
  probes.metrics = &metrics;
  auto started = http::server::start({settings.http, settings.name}, http::probe_routes(std::move(probes)));
  if (!started) return fail(started.error());
  web = std::move(*started);
  return {};
}

result<std::unique_ptr<daemon_process>> daemon_process::start(const daemon_settings& settings) {
  auto s = std::make_unique<state>();
  auto chosen = choose_addresses(settings);
  if (!chosen) return fail(chosen.error());
  s->at = *chosen;
  if (auto opened = s->open_store(settings); !opened) return fail(opened.error());
  if (auto ready = daemon::prepare_private_folder(settings.run_dir); !ready) return fail(ready.error());
  auto durable = s->records->load();
  if (!durable) return fail(durable.error());
  if (auto made = s->make_machine(settings, *durable); !made) return fail(made.error());
  auto process = std::unique_ptr<daemon_process>(new daemon_process(std::move(s)));
  auto& parts = *process->state_;
  parts.start_actors();
  coordinator_settings actor;
  actor.machine = parts.machine;
  actor.store = spawn_store_actor(*parts.system, parts.records);
  actor.folders = spawn_folder_actor(*parts.system, parts.served);
  actor.ports = parts.ports;
  actor.view = parts.view;
  actor.documents = parts.documents;
  if (auto opened = parts.open_sockets(settings); !opened) return fail(opened.error());
  parts.ports->control = parts.control.get();
  parts.ports->heartbeats = parts.heartbeats.get();
  if (auto served = parts.start_http(settings); !served) return fail(served.error());
  if (auto valid = validate(actor); !valid) return fail(valid.error());
  parts.actor = spawn_coordinator_actor(*parts.system, std::move(actor));
  // The actor first, then the doors: what arrives must find somebody.
  parts.control->start();
  parts.heartbeats->start();
  return process;
}

daemon_process::daemon_process(std::unique_ptr<state> s) : state_(std::move(s)) {}

void daemon_process::state::stop() {
  if (web) web->stop(std::chrono::milliseconds(0));
  if (actor) {
    caf::scoped_actor self(*system);
    self->request(actor, limits::shutdown_grace, stop_coordinator{})
        .receive([](stopped) {},
                 [](const caf::error&) { spdlog::error("the coordinator actor did not stop in time"); });
  }
  actor = nullptr;
  heartbeats.reset();
  control.reset();
  machine.reset();
  system.reset();  // waits for the store actor's last write
  zap.reset();
}

daemon_process::~daemon_process() { state_->stop(); }

const std::string& daemon_process::control_address() const { return state_->at.control; }
const std::string& daemon_process::cluster_id() const { return state_->cluster_id; }

}  // namespace troupe::coordinator
