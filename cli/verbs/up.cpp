// troupe up: check everything that can be checked, start what is missing, wait until it serves, stay or detach.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/application.hpp"
#include "cli/cluster_file.hpp"
#include "cli/cluster_settings.hpp"
#include "cli/credentials.hpp"
#include "cli/interrupt.hpp"
#include "cli/launch_plan.hpp"
#include "cli/launcher.hpp"
#include "cli/machines.hpp"
#include "cli/remote.hpp"
#include "cli/terminal.hpp"
#include "model/checkpoint.hpp"
#include "model/manifest.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds watch_interval{500};

struct up_request {
  fs::path model;
  cluster_options options;
  bool detach{};
  std::chrono::milliseconds timeout{};          // 0: from the model's size
  std::map<std::string, setting_origin> given;  // by key: cluster options that were typed, in the environment or a file
  fs::path file;                                // a cluster file; empty: none
  std::vector<machine_share> machines;          // none: this one alone
};

struct opened_model {
  fs::path folder;
  model::description description;
};

view cluster_view() {
  return {.items = "",
          .columns = {{"CLUSTER", "cluster_id"},
                      {"MODEL", "model"},
                      {"HTTP", "http"},
                      {"CLIENT", "client"},
                      {"DATA", "data_dir"},
                      {"PROCESSES", "process_list"}},
          .name = "{cluster_id}",
          .vertical = true};
}

result<opened_model> open_model(const fs::path& folder) {
  std::error_code failure;
  const fs::path absolute = fs::canonical(folder, failure);
  if (failure) {
    return fail(errc::not_found,
                fmt::format("cannot open the model folder {}: {}; give --model a folder with config.json and "
                            "model.safetensors",
                            folder.string(), failure.message()));
  }
  auto opened = model::checkpoint::open(absolute);
  if (!opened) return fail(opened.error());
  // The expert nodes compare with it, and would not start.
  if (auto manifest = model::read_manifest(absolute, opened->model()); !manifest) return fail(manifest.error());
  return opened_model{absolute, opened->model()};
}

std::string new_uuid() {
  std::string uuid;
  std::getline(std::ifstream{"/proc/sys/kernel/random/uuid"} >> std::ws, uuid);
  return uuid;
}

result<fs::path> program_folder() {
  std::error_code failure;
  const fs::path self = fs::read_symlink("/proc/self/exe", failure);
  const fs::path folder = self.parent_path();
  for (const char* program : {"troupe-coordinator", "troupe-expert", "troupe-router"}) {
    if (::access((folder / program).c_str(), X_OK) != 0) {
      return fail(errc::not_found,
                  fmt::format("{} is not beside {}; build it with scripts/build.sh", program, self.string()));
    }
  }
  return folder;
}

// The options that were asked for and differ from what runs.
std::vector<std::string> contradictions(const up_request& request, const cluster_options& running,
                                        const std::vector<machine>& running_machines) {
  std::vector<std::string> found;
  const auto compare = [&](const std::string& name, const auto& wanted, const auto& is) {
    std::string key = name;
    std::replace(key.begin(), key.end(), '-', '_');
    if (request.given.contains(key) && wanted != is)
      found.push_back(fmt::format("--{} {} (it runs with {})", name, wanted, is));
  };
  const auto& wanted = request.options;
  compare("expert-nodes", wanted.expert_nodes, running.expert_nodes);
  compare("routers", wanted.routers, running.routers);
  compare("replication", wanted.replication, running.replication);
  compare("active-experts", wanted.active_experts, running.active_experts);
  compare("policies", wanted.policies, running.policies);
  compare("add-queue-rows", wanted.add_queue_rows, running.add_queue_rows);
  compare("prune-share", wanted.prune_share, running.prune_share);
  compare("cold-share", wanted.cold_share, running.cold_share);
  compare("cold-reservoir-rows", wanted.cold_reservoir_rows, running.cold_reservoir_rows);
  compare("record-trace", wanted.record_trace, running.record_trace);
  compare("explore-bias", wanted.explore_bias, running.explore_bias);
  compare("route-groups", wanted.route_groups, running.route_groups);
  compare("route-groups-kept", wanted.route_groups_kept, running.route_groups_kept);
  compare("dtype", wanted.dtype, running.dtype);
  compare("device", wanted.device, running.device);
  compare("allow-nonfinite", wanted.allow_nonfinite, running.allow_nonfinite);
  compare("link-gpus", wanted.link_gpus, running.link_gpus);
  compare("transport", wanted.transport, running.transport);
  compare("threads", wanted.threads, running.threads);
  compare("slots", wanted.slots, running.slots);
  compare("router-threads", wanted.router_threads, running.router_threads);
  compare("pin-streams", wanted.pin_streams, running.pin_streams);
  compare("kv-memory", wanted.kv_memory, running.kv_memory);
  std::vector<machine> machines;
  for (const auto& share : request.machines) machines.push_back(share.where);
  if (!machines.empty() && machines != running_machines) found.emplace_back("other machines than it runs on");
  compare("api-key-file", wanted.api_key_file, running.api_key_file);
  compare("no-auth", wanted.no_auth, running.no_auth);
  return found;
}

result<cluster_context> rejoin(const fs::path& data_dir, const cluster_context& running, const up_request& request,
                               const opened_model& model) {
  if (running.model != model.folder || running.model_fingerprint != model.description.fingerprint) {
    return fail(errc::conflict,
                fmt::format("the cluster of {} serves {}, not {}; stop it with troupe down, or give another "
                            "--data-dir",
                            data_dir.string(), running.model.string(), model.folder.string()));
  }
  if (const auto differs = contradictions(request, running.options, running.machines); !differs.empty()) {
    return fail(errc::conflict,
                fmt::format("the cluster of {} runs already, and cannot change to {}; stop it with troupe "
                            "down first",
                            data_dir.string(), fmt::join(differs, ", ")));
  }
  return running;
}

// A stopped cluster of the same shape goes on where it was; any other starts from nothing.
bool goes_on_with(const result<cluster_context>& previous, const cluster_options& options, const opened_model& model) {
  if (!previous || previous->cluster_id.empty()) return false;
  const auto& was = previous->options;
  return previous->model_fingerprint == model.description.fingerprint && was.expert_nodes == options.expert_nodes &&
         was.replication == options.replication && was.active_experts == options.active_experts &&
         was.routers == options.routers && was.dtype == options.dtype;
}

result<void> set_state_aside(const fs::path& data_dir) {
  const fs::path state = data_dir / "coordinator";
  const fs::path kept = data_dir / "coordinator.previous";
  std::error_code failure;
  if (!fs::exists(state, failure)) return {};
  fs::remove_all(kept, failure);
  fs::rename(state, kept, failure);
  if (failure) {
    return fail(errc::internal, fmt::format("cannot set the earlier cluster's state {} aside: {}; remove it by hand",
                                            state.string(), failure.message()));
  }
  print_note(fmt::format("another model or shape than before: the earlier state is kept in {}", kept.string()));
  return {};
}

std::uint32_t most_nodes_of_a_machine(const up_request& request) {
  if (request.machines.empty()) return request.options.expert_nodes;
  return std::max(1U, std::ranges::max(request.machines, {}, &machine_share::expert_nodes).expert_nodes);
}

result<cluster_context> plan_fresh(const fs::path& data_dir, const up_request& request, const opened_model& model,
                                   bool dry_run) {
  auto machine = this_machine();
  const auto& options = request.options;
  launch_inputs inputs;
  inputs.data_dir = data_dir;
  inputs.run_dir = data_dir / "run";
  inputs.model = model.folder;
  inputs.model_fingerprint = model.description.fingerprint;
  inputs.machines = request.machines;
  const auto nodes_here = most_nodes_of_a_machine(request);
  inputs.threads = options.threads != 0 ? options.threads : default_threads(machine.cores, nodes_here);
  inputs.router_threads = options.router_threads != 0 ? options.router_threads : machine.cores;
  const auto programs = program_folder();
  if (!programs) return fail(programs.error());
  inputs.programs = *programs;
  machine.memory_available = machine.memory_available / nodes_here * options.expert_nodes;  // the others are like this
  const auto slots = choose_slots(options, experts_by_layer(model.description),
                                  slot_bytes_of(model.description, options.dtype), machine);
  if (!slots) return fail(slots.error());
  inputs.slots = *slots;
  const auto previous = load_context(data_dir);
  const bool same_cluster = goes_on_with(previous, options, model);
  inputs.cluster_id = same_cluster ? previous->cluster_id : new_uuid();
  if (dry_run) return plan_cluster(inputs, options);
  auto run_dir = make_run_dir(data_dir);
  if (!run_dir) return fail(run_dir.error());
  inputs.run_dir = *run_dir;
  auto plan = plan_cluster(inputs, options);
  if (!plan) return plan;
  if (!same_cluster) {
    if (auto done = set_state_aside(data_dir); !done) return fail(done.error());
  }
  plan->origins = request.given;
  if (auto keys = make_credentials(data_dir, *plan); !keys) return fail(keys.error());
  return plan;
}

result<cluster_context> prepare(const fs::path& data_dir, const up_request& request, const opened_model& model,
                                bool dry_run) {
  const auto previous = load_context(data_dir);
  if (!previous && previous.error().code != errc::unavailable) return fail(previous.error());
  if (previous && !running_processes(*previous).empty()) return rejoin(data_dir, *previous, request, model);
  return plan_fresh(data_dir, request, model, dry_run);
}

json describe(const fs::path& data_dir, const cluster_context& context) {
  json processes = json::array();
  std::vector<std::string> list;
  for (const auto& process : context.processes) {
    processes.push_back({{"role", process.role}, {"name", process.name}, {"pid", process.identity.pid}});
    list.push_back(fmt::format("{} ({})", process.name, process.identity.pid));
  }
  return {{"cluster_id", context.cluster_id},
          {"http", context.routers.front().http},
          {"client", context.routers.front().client},
          {"data_dir", data_dir.string()},
          {"processes", processes}};
}

void print_ready(const session& s, const fs::path& data_dir, const cluster_context& context) {
  json document = describe(data_dir, context);
  if (s.prints_pages()) {
    std::vector<std::string> list;
    for (const auto& process : context.processes)
      list.push_back(fmt::format("{} ({})", process.name, process.identity.pid));
    document["model"] = context.model.string();
    document["process_list"] = fmt::format("{}", fmt::join(list, ", "));
  }
  s.print(document, cluster_view());
}

// Stays until the person asks to stop or nothing is left to watch.
result<exit_code> watch(const fs::path& data_dir, launcher& cluster) {
  print_note("the cluster serves; Ctrl-C drains and stops it");
  while (!wait_for_interrupt(watch_interval)) {
    while (const auto ended = cluster.next_ended()) {
      print_note(fmt::format("{}; start it again with: troupe up --model {} --data-dir {} --detach", *ended,
                             cluster.context().model.string(), data_dir.string()));
    }
    const auto now = load_context(data_dir);
    if (now && running_processes(*now).empty()) {
      print_note("the cluster was stopped");
      return exit_code::ok;
    }
  }
  print_note("draining and stopping");
  // Another `troupe up` may have started processes again meanwhile: the file knows.
  const auto now = load_context(data_dir);
  const auto killed = stop_cluster(data_dir, now ? *now : cluster.context());
  if (!killed) return fail(killed.error());
  if (!killed->empty())
    print_note(fmt::format("{} did not stop in time and had to be killed", fmt::join(*killed, ", ")));
  return was_ctrl_c() ? exit_code::interrupted : exit_code::ok;
}

std::chrono::milliseconds start_deadline(const up_request& request, std::uint64_t bytes) {
  if (request.timeout.count() != 0) return request.timeout;
  // A slow disk reads 50 MB/s; whatever else happens at the start fits a minute.
  return std::chrono::minutes{1} + std::chrono::seconds{bytes / 50'000'000};
}

void say_what_runs(const std::vector<std::string>& started, const cluster_context& context) {
  if (started.size() == context.processes.size()) return;
  print_note(started.empty() ? "everything runs already"
                             : fmt::format("started again what was missing: {}", fmt::join(started, ", ")));
}

result<exit_code> show_plan(const fs::path& data_dir, const up_request& request, const opened_model& model) {
  const auto context = prepare(data_dir, request, model, true);
  if (!context) return fail(context.error());
  for (const auto& process : context->processes) {
    const bool runs = is_running(process.identity);
    print_note(fmt::format("{}{}", runs ? "runs already: " : "would start: ", fmt::join(process.command, " ")));
  }
  return exit_code::ok;
}

// Takes the file's settings into the options, and the machines.
result<exit_code> read_file(up_request& request, CLI::App& verb) {
  auto file = read_cluster_file(request.file);
  if (!file) return fail(file.error());
  request.given = apply_settings(*file, verb);
  for (const auto& problem : file->problems) print_error(to_string(problem, file->path));
  if (!file->problems.empty()) return exit_code::usage;
  auto shares = share_out(*file, request.options, request.given.contains("expert_nodes"));
  if (!shares) return fail(shares.error());
  request.machines = *std::move(shares);
  return exit_code::ok;
}

result<exit_code> up(const session& s, const up_request& request) {
  if (request.model.empty()) {
    print_error(
        "--model is required: the folder of a Hugging Face checkpoint; or -f FILE, a cluster file that names it");
    return exit_code::usage;
  }
  if (auto good = check_options(request.options); !good) {
    print_error(good.error().message);
    return exit_code::usage;
  }
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  auto model = open_model(request.model);
  if (!model) return fail(model.error());
  if (auto right = check_options_for(request.options, model->description); !right) {
    print_error(right.error().message);
    return exit_code::usage;
  }
  if (s.options().dry_run) return show_plan(*data_dir, request, *model);
  if (auto made = make_data_dir(*data_dir); !made) return fail(made.error());
  auto lock = std::make_unique<result<launch_lock>>(launch_lock::take(*data_dir));
  if (!*lock) return fail(lock->error());
  auto context = prepare(*data_dir, request, *model, false);
  if (!context) return fail(context.error());
  install_interrupt_handler();
  const std::uint64_t replicas = std::uint64_t{expert_count_of(model->description)} * context->options.replication;
  if (!context->machines.empty()) {
    // A machine that has this folder too is known by it.
    if (auto saved = save_context(*data_dir, *context); !saved) return fail(saved.error());
    if (auto sent = send_keys(*data_dir, *context); !sent) return fail(sent.error());
  }
  launcher cluster{*data_dir, std::move(*context), replicas};
  const auto started = cluster.start_missing();
  if (!started) return fail(started.error());
  say_what_runs(*started, cluster.context());
  const std::uint64_t bytes = model->description.bundle_bytes() * cluster.context().options.replication;
  if (!s.options().no_wait) {
    if (auto serving = cluster.wait_until_serving(start_deadline(request, bytes)); !serving) {
      cluster.stop_started();
      return fail(serving.error());
    }
  }
  lock.reset();
  print_ready(s, *data_dir, cluster.context());
  return request.detach ? result<exit_code>{exit_code::ok} : watch(*data_dir, cluster);
}

}  // namespace

void add_up_verb(verb_registry& verbs) {
  auto request = std::make_shared<up_request>();
  auto own = std::make_shared<CLI::App*>();
  auto& verb =
      verbs.verb("up", "Start a whole cluster, on this machine or on those of a file, or what is missing of it.",
                 "  troupe up --model ~/models/mixtral\n"
                 "  troupe up --model ~/models/mixtral --expert-nodes 4 --replication 2 --detach -o json\n"
                 "  troupe up -f cluster.yaml                 on several machines, through ssh or in a Slurm job",
                 [request, own](const session& s) -> result<exit_code> {
                   request->given = given_settings(**own);
                   if (!request->file.empty()) {
                     const auto read = read_file(*request, **own);
                     if (!read || *read != exit_code::ok) return read;
                   }
                   return up(s, *request);
                 });
  *own = &verb;
  add_cluster_options(verb, request->model, request->options);
  verb.add_option("-f,--file", request->file, "a cluster file: these options as keys, and machines (docs/cli.md)")
      ->type_name("FILE");
  verb.add_flag("--detach", request->detach, "return once the cluster serves");
  add_duration(verb, "--timeout", request->timeout,
               "how long starting may take [a minute and the time to read the model]");
  auto words = std::make_shared<std::vector<std::string>>();
  auto& keeper = verbs.verb("run-remote", "What keeps a daemon on another machine; not for typing.", "",
                            [words](const session&) { return run_remote(*words); });
  keeper.add_option("words", *words)->required();
  keeper.group("");
}

}  // namespace troupe::cli
