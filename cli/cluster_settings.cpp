#include "cli/cluster_settings.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "cli/application.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

// The daemons run in other folders.
template <bool (*is_right)(const fs::path&, std::error_code&) noexcept>
std::string make_absolute(std::string& path, const char* kind) {
  std::error_code failure;
  if (!is_right(path, failure)) return fmt::format("{} is not a {}", path, kind);
  path = fs::absolute(path).string();
  return {};
}
const CLI::Validator absolute_file{[](std::string& path) { return make_absolute<fs::is_regular_file>(path, "file"); },
                                   "", "absolute_file"};
const CLI::Validator absolute_folder{[](std::string& path) { return make_absolute<fs::is_directory>(path, "folder"); },
                                     "", "absolute_folder"};

std::string text_of(std::chrono::milliseconds time) {
  const auto milliseconds = time.count();
  if (milliseconds % 3'600'000 == 0) return fmt::format("{}h", milliseconds / 3'600'000);
  if (milliseconds % 60'000 == 0) return fmt::format("{}m", milliseconds / 60'000);
  return milliseconds % 1000 == 0 ? fmt::format("{}s", milliseconds / 1000) : fmt::format("{}ms", milliseconds);
}

std::string setting_key(const CLI::Option& option) {
  std::string key = option.get_lnames().front();
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

// Of one that was parsed and has a value.
setting_origin origin_of(const CLI::Option& option) {
  const auto variable = option.get_envname();
  const char* value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  if (value != nullptr && option.results() == std::vector<std::string>{value}) return {"environment", variable};
  return {"flag", option.get_name()};
}

}  // namespace

void add_cluster_options(CLI::App& verb, fs::path& model, cluster_options& options) {
  verb.add_option("--model", model, "folder of a Hugging Face checkpoint")->type_name("DIR");
  verb.add_option("--expert-nodes", options.expert_nodes, "how many processes hold experts [3]")
      ->check(CLI::Range(1, 1000));
  verb.add_option("--routers", options.routers, "how many processes take requests [1]")->check(CLI::Range(1, 100));
  verb.add_option("--replication", options.replication, "copies of each expert, on different nodes [1]")
      ->check(CLI::Range(1, 64));
  verb.add_option("--active-experts", options.active_experts,
                  "per layer, to begin with; others are added later (troupe expert add) [all]");
  verb.add_option("--policies", options.policies,
                  "what is done without being asked: add, balance, prune, with commas between [nothing]");
  verb.add_option("--add-queue-rows", options.add_queue_rows,
                  "add: only while so many rows wait at the expert nodes together [0]");
  verb.add_option("--prune-share", options.prune_share, "prune: under this share of its layer's traffic [0.02]")
      ->check(CLI::Range(0.0001, 0.9));
  add_duration(verb, "--prune-window", options.prune_window, "prune: for as long as this [24h]");
  verb.add_option("--cold-share", options.cold_share,
                  "an expert with less than this part of the fair share of its layer's rows is cold; 0: none is [0.05]")
      ->check(CLI::Range(0.0, 0.9));
  add_duration(verb, "--cold-stale-after", options.cold_stale_after,
               "a cold expert that got no other weights for so long is told of [48h]");
  verb.add_option("--cold-reservoir-rows", options.cold_reservoir_rows,
                  "inputs of each cold expert that a router keeps for training (troupe expert export-inputs) [0]")
      ->check(CLI::Range(0U, limits::cold_reservoir_rows_max));
  verb.add_option("--record-trace", options.record_trace,
                  "each router writes what experts have to do into a file there, for troupe simulate --loads [none]")
      ->transform(absolute_folder)
      ->type_name("FOLDER");
  verb.add_option("--explore-bias", options.explore_bias,
                  "an approximation: gate probability that a row may lose by trying a cold expert [0: none is tried]")
      ->check(CLI::Range(0.0, limits::explore_bias_max));
  verb.add_option("--route-groups", options.route_groups,
                  "an approximation: rows choose inside the best of so many groups of experts only [off]");
  verb.add_option("--route-groups-kept", options.route_groups_kept, "how many groups a row chooses inside [2]");
  verb.add_option("--dtype", options.dtype, "what experts compute in: auto, f32 or bf16 [auto]")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}));
  verb.add_option("--device", options.device, "cpu, reference (plain loops), or cuda: GPU N for expert-N [cpu]")
      ->check(CLI::IsMember({"cpu", "reference", "cuda"}));
  verb.add_flag("--link-gpus", options.link_gpus,
                "with --device cuda: experts go from GPU to GPU over NCCL, which does not encrypt");
  verb.add_flag("--allow-nonfinite", options.allow_nonfinite, "serve weights that hold NaN or infinity");
  verb.add_option("--transport", options.transport, "between the processes: ipc, or tcp with encryption [ipc]")
      ->check(CLI::IsMember({"ipc", "tcp"}));
  verb.add_option("--http", options.http, "address of the first router's HTTP server; port 0: a free one [127.0.0.1:0]")
      ->type_name("HOST:PORT");
  verb.add_option("--threads", options.threads, "per expert node; 0: the cores shared out, two or more each [0]")
      ->check(CLI::Range(0, 1024));
  verb.add_option("--slots", options.slots,
                  "experts that one node can hold; 0: as many as a loss or a refresh needs [0]");
  verb.add_option("--router-threads", options.router_threads, "per router; 0: all cores [0]")
      ->check(CLI::Range(0, 1024));
  verb.add_option("--kv-memory", options.kv_memory, "keys and values of running texts, per router [chosen]")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
  verb.add_flag("--pin-streams", options.pin_streams,
                "texts in progress keep the weights that they began with over a refresh, for up to 10 minutes");
  verb.add_option("--api-key-file", options.api_key_file, "keys that HTTP clients must show, one per line [none asked]")
      ->transform(absolute_file)
      ->type_name("FILE");
  verb.add_flag("--no-auth", options.no_auth, "serve other machines over HTTP without API keys");
}

std::string option_name(const std::string& key) {
  std::string name = key;
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::map<std::string, setting_origin> given_settings(const CLI::App& verb) {
  std::map<std::string, setting_origin> given;
  for (const auto& one : list_settings({}, {})) {
    const auto* option = verb.get_option("--" + option_name(one.key));
    if (option->count() > 0) given[one.key] = origin_of(*option);
  }
  return given;
}

std::vector<setting> list_settings(const fs::path& model, const cluster_options& options) {
  auto shown_model = model;
  auto shown = options;
  CLI::App app;
  app.option_defaults()->always_capture_default();
  add_cluster_options(app, shown_model, shown);
  // What CLI11 does not capture.
  for (const auto& [name, value] : {std::pair{"--link-gpus", options.link_gpus},
                                    {"--no-auth", options.no_auth},
                                    {"--pin-streams", options.pin_streams},
                                    {"--allow-nonfinite", options.allow_nonfinite}}) {
    app.get_option(name)->default_str(value ? "true" : "false");
  }
  app.get_option("--prune-window")->default_str(text_of(options.prune_window));
  app.get_option("--cold-stale-after")->default_str(text_of(options.cold_stale_after));
  std::vector<setting> settings;
  for (const auto* option : app.get_options()) {
    if (option == app.get_help_ptr()) continue;
    auto value = option->get_default_str();
    if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
    settings.push_back({setting_key(*option), std::move(value), option->get_description(), {"default", ""}});
  }
  return settings;
}

}  // namespace troupe::cli
