// troupe config check, show and defaults.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/cluster_file.hpp"
#include "cli/cluster_settings.hpp"
#include "cli/launch_plan.hpp"
#include "cli/machines.hpp"
#include "cli/terminal.hpp"
#include "model/checkpoint.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

struct config_request {
  fs::path file;
  fs::path model;
  cluster_options options;
  bool with_origin{};
  CLI::App* verb{};  // of the options
};

// What `troupe up` would take with this file, environment and flags; what is wrong with the file goes to `problems`.
result<std::map<std::string, setting_origin>> take_settings(config_request& request,
                                                            std::vector<std::string>& problems) {
  if (request.file.empty()) return given_settings(*request.verb);
  auto file = read_cluster_file(request.file);
  if (!file) return fail(file.error());
  auto origins = apply_settings(*file, *request.verb);
  for (const auto& problem : file->problems) problems.push_back(to_string(problem, file->path));
  if (!file->problems.empty()) return origins;
  const auto shares = share_out(*file, request.options, origins.contains("expert_nodes"));
  if (!shares) problems.push_back(fmt::format("{}: {}", file->path.string(), shares.error().message));
  return origins;
}

void check_model(const config_request& request, std::vector<std::string>& problems) {
  if (request.model.empty()) {
    problems.emplace_back("model: is not set; it names the folder of a Hugging Face checkpoint");
    return;
  }
  const auto opened = model::checkpoint::open(request.model);
  if (!opened) {
    problems.push_back("model: " + opened.error().message);
    return;
  }
  if (const auto right = check_options_for(request.options, opened->model()); !right)
    problems.push_back(right.error().message);
}

result<exit_code> check(const session& s, config_request& request) {
  std::vector<std::string> problems;
  const auto origins = take_settings(request, problems);
  if (!origins) return fail(origins.error());
  if (const auto good = check_options(request.options); !good) problems.push_back(good.error().message);
  check_model(request, problems);
  for (const auto& problem : problems) print_error(problem);
  if (!s.prints_pages()) {
    s.print({{"ok", problems.empty()}, {"problems", problems}}, {.items = "", .columns = {}, .name = "{ok}"});
  } else if (problems.empty()) {
    std::cout << "nothing is wrong\n" << std::flush;
  }
  return problems.empty() ? exit_code::ok : exit_code::failed;
}

json item_of(const setting& one, const setting_origin& origin) {
  return {{"key", one.key},
          {"value", one.value},
          {"origin", origin.kind},
          {"where", origin.where.empty() ? json(nullptr) : json(origin.where)}};
}

void print_settings(const session& s, const config_request& request, const std::vector<setting>& settings,
                    const std::map<std::string, setting_origin>& origins) {
  json items = json::array();
  for (const auto& one : settings) {
    const auto found = origins.find(one.key);
    items.push_back(item_of(one, found == origins.end() ? one.origin : found->second));
  }
  view shown{.items = "items", .columns = {{"SETTING", "key"}, {"VALUE", "value"}}, .name = "{key}"};
  if (request.with_origin) shown.columns.insert(shown.columns.end(), {{"ORIGIN", "origin"}, {"WHERE", "where"}});
  s.print({{"items", items}}, shown);
}

// Of the cluster that runs, unless something else was asked for.
result<exit_code> show(const session& s, config_request& request) {
  const auto context = s.context();
  const bool is_about_running =
      request.file.empty() && given_settings(*request.verb).empty() && context && !running_processes(*context).empty();
  if (is_about_running) {
    print_settings(s, request, list_settings(context->model, context->options), context->origins);
    return exit_code::ok;
  }
  std::vector<std::string> problems;
  const auto origins = take_settings(request, problems);
  if (!origins) return fail(origins.error());
  for (const auto& problem : problems) print_error(problem);
  if (!problems.empty()) return exit_code::usage;
  print_settings(s, request, list_settings(request.model, request.options), *origins);
  return exit_code::ok;
}

std::string yaml_value(const std::string& value) {
  const bool is_plain = !value.empty() && value.find_first_of(":#,[]{}\"'&*!|>%@` ") == std::string::npos;
  return is_plain ? value : fmt::format("\"{}\"", value);
}

result<exit_code> defaults(const session& s) {
  const auto settings = list_settings({}, {});
  if (s.format() == output_format::json || s.format() == output_format::name) {
    print_settings(s, {}, settings, {});
    return exit_code::ok;
  }
  std::cout
      << "# What troupe up -f FILE reads: all settings with their defaults. A flag wins over its TROUPE_ variable,\n"
         "# which wins over this file. Times have a unit (500ms, 30s, 6h), sizes may (8GiB).\n";
  for (const auto& one : settings) {
    // What has no default is shown as a remark.
    std::cout << fmt::format("\n# {}\n{}{}: {}\n", one.help, one.value.empty() ? "# " : "", one.key,
                             one.value.empty() ? "..." : yaml_value(one.value));
  }
  std::cout << "\n# Several machines. The model and the programs are at the same paths on each; the first one has the\n"
               "# coordinator. `machines: slurm` means those of the Slurm job that troupe up runs in.\n"
               "# machines:\n"
               "#   - address: 10.0.0.1\n"
               "#   - {name: b, address: 10.0.0.2, ssh: ann@10.0.0.2, zone: rack-2, expert_nodes: 2, routers: 1}\n"
               "# How commands get there, and the first port that is used on each machine.\n"
               "# ssh: ssh\n"
               "# port: 7400\n"
            << std::flush;
  return exit_code::ok;
}

}  // namespace

void add_config_verbs(verb_registry& verbs) {
  auto& noun = verbs.noun("config", "The settings of a cluster: cluster files, environment and defaults.");
  const auto with_settings = [&](const std::string& name, const std::string& help, const std::string& examples,
                                 result<exit_code> (*run)(const session&, config_request&)) {
    auto request = std::make_shared<config_request>();
    auto& verb = verbs.verb(noun, name, help, examples, [request, run](const session& s) { return run(s, *request); });
    verb.add_option("-f,--file", request->file, "a cluster file, as for troupe up")->type_name("FILE");
    request->verb = &verb;
    add_cluster_options(verb, request->model, request->options);
    return std::pair<CLI::App&, std::shared_ptr<config_request>>{verb, request};
  };
  with_settings("check", "All that is wrong with the settings, without starting anything.",
                "  troupe config check -f cluster.yaml", &check);
  auto [showing, shown] =
      with_settings("show", "The settings of the cluster that runs; with a file: those that troupe up would take.",
                    "  troupe config show --origin\n  troupe config show --origin -f cluster.yaml", &show);
  showing.add_flag("--origin", shown->with_origin, "where each came from: flag, environment, file or default");
  verbs.verb(noun, "defaults", "A cluster file with every setting, its default and what it does.",
             "  troupe config defaults > cluster.yaml", &defaults);
}

}  // namespace troupe::cli
