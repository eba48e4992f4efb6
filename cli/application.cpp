#include "cli/application.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <iostream>
#include <nlohmann/json.hpp>
#include <span>

#include "cli/suggest.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

constexpr std::chrono::milliseconds admin_timeout{5000};

// Examples (kept as the footer) come first: that is what most people open --help for.
class examples_first : public CLI::Formatter {
 public:
  std::string make_description(const CLI::App* app) const override {
    std::string text = app->get_description() + "\n";
    if (!app->get_footer().empty()) text += "\nExamples:\n" + app->get_footer() + "\n";
    return text + "\n";
  }
  std::string make_footer(const CLI::App* app) const override {
    return app->get_parent() == nullptr ? "" : "\nOptions that every verb has: troupe --help\n";
  }
};

std::string variable_name(const CLI::Option& option) {
  std::string name = "TROUPE_" + option.get_lnames().front();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::toupper(c)); });
  return name;
}

// Every option but --help and --version can be given as TROUPE_OPTION.
void name_variables(CLI::App& app) {
  for (auto* option : app.get_options()) {
    if (option->get_lnames().empty() || option == app.get_help_ptr() || option == app.get_version_ptr()) continue;
    option->envname(variable_name(*option));
  }
  for (auto* child : app.get_subcommands([](CLI::App*) { return true; })) name_variables(*child);
}

void add_global_options(CLI::App& app, global_options& options) {
  app.add_option("-o,--output", options.format, "table, json, yaml, wide or name")
      ->check(CLI::IsMember({"table", "json", "yaml", "wide", "name"}))
      ->type_name("FORMAT");
  app.add_flag(
      "--json", [&options](std::int64_t) { options.format = "json"; }, "the same as -o json");
  app.add_option("--data-dir", options.data_dir, "which cluster [~/.local/state/troupe/default]")->type_name("DIR");
  app.add_flag("-y,--yes", options.assume_yes, "do not ask before what loses capacity");
  app.add_flag("--dry-run", options.dry_run, "say what would be done and do nothing");
  app.add_flag("--no-wait", options.no_wait, "return as soon as the request is accepted");
}

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const auto* child : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(child->get_name());
  return names;
}

// The word that should have been a verb and is none; empty when that is not what is wrong.
std::string explain_unknown_verb(const CLI::App& root, std::span<const char* const> words) {
  const CLI::App* here = &root;
  std::string path;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string word = words[i];
    if (word == "-o" || word == "--output" || word == "--data-dir") ++i;
    if (word.starts_with('-')) continue;
    const auto names = verb_names(*here);
    if (names.empty()) return {};
    if (std::find(names.begin(), names.end(), word) == names.end()) {
      const std::string hint = did_you_mean(word, names);
      return fmt::format("unknown verb '{}'{}", (path.empty() ? "" : path + " ") + printable(word),
                         hint.empty() ? fmt::format("; see: troupe {}{}--help", path, path.empty() ? "" : " ") : hint);
    }
    here = here->get_subcommand(word);
    path.append(path.empty() ? "" : " ").append(word);
  }
  if (verb_names(*here).empty()) return {};
  return fmt::format("{} needs a verb; see: troupe {}{}--help", path.empty() ? "troupe" : path, path,
                     path.empty() ? "" : " ");
}

std::string explain_unknown_option(const CLI::App& root, const std::string& message,
                                   std::span<const char* const> words) {
  const CLI::App* here = &root;
  std::vector<std::string> known;
  const auto collect = [&known](const CLI::App& app) {
    for (const auto* option : app.get_options()) {
      for (const auto& name : option->get_lnames()) known.push_back("--" + name);
    }
  };
  collect(root);
  for (const char* word : words) {
    const auto names = verb_names(*here);
    if (std::find(names.begin(), names.end(), word) != names.end()) collect(*(here = here->get_subcommand(word)));
  }
  for (const std::string word : words) {
    const std::string name = word.substr(0, word.find('='));
    if (name.starts_with("--") && std::find(known.begin(), known.end(), name) == known.end()) {
      const std::string hint = did_you_mean(name, known);
      return fmt::format("unknown option {}{}", printable(name), hint.empty() ? "; see --help" : hint);
    }
  }
  return message + "; see --help";
}

exit_code report_usage(const CLI::App& root, const CLI::ParseError& problem, std::span<const char* const> words) {
  std::string message = explain_unknown_verb(root, words);
  if (message.empty()) message = explain_unknown_option(root, problem.what(), words);
  print_error(message);
  return exit_code::usage;
}

exit_code run_action(const verb_action& action, const global_options& options) {
  auto outcome = action(session{options});
  if (outcome) return *outcome;
  print_error(outcome.error().message);
  return exit_code_of(outcome.error().code);
}

}  // namespace

void session::print(const json& document, const view& shown) const {
  std::cout << render(document, format(), shown) << std::flush;
}

result<cluster_context> session::context() const {
  return data_dir().and_then([](const auto& folder) { return load_context(folder); });
}

result<admin_client> session::coordinator() const {
  auto folder = data_dir();
  if (!folder) return fail(folder.error());
  auto found = load_context(*folder);
  if (!found) return fail(found.error());
  if (running_processes(*found).empty()) {
    return fail(errc::unavailable, fmt::format("the cluster of {} is stopped; start it with: troupe up --model {} "
                                               "--data-dir {}",
                                               folder->string(), found->model.string(), folder->string()));
  }
  return admin_client::connect(*folder, *found, admin_timeout);
}

CLI::App& verb_registry::noun(const std::string& name, const std::string& help) {
  auto* app = root_.add_subcommand(name, help);
  app->require_subcommand(1);
  app->fallthrough();
  return *app;
}

CLI::App& verb_registry::verb(CLI::App& parent, const std::string& name, const std::string& help,
                              const std::string& examples, verb_action action) {
  auto* app = parent.add_subcommand(name, help);
  app->footer(examples);
  app->fallthrough();
  app->callback([this, action = std::move(action)] { chosen_ = action; });
  return *app;
}

CLI::App& verb_registry::verb(const std::string& name, const std::string& help, const std::string& examples,
                              verb_action action) {
  return verb(root_, name, help, examples, std::move(action));
}

CLI::Option* add_duration(CLI::App& verb, const std::string& name, std::chrono::milliseconds& value,
                          const std::string& help) {
  const auto parse = [&value](const std::string& text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string unit{end, text.data() + text.size()};
    constexpr std::uint64_t number_max = 1'000'000'000;
    const std::uint64_t factor = unit == "ms"                  ? 1
                                 : unit == "s" || unit.empty() ? 1000
                                 : unit == "m"                 ? 60'000
                                 : unit == "h"                 ? 3'600'000
                                                               : 0;
    if (error != std::errc{} || factor == 0 || number > number_max) {
      throw CLI::ValidationError(fmt::format("'{}' is not a duration; write e.g. 500ms, 90s or 2m", text));
    }
    value = std::chrono::milliseconds{number * factor};
  };
  return verb.add_option_function<std::string>(name, parse, help)->type_name("DURATION");
}

exit_code run_command_line(int argc, const char* const* argv) {
  global_options options;
  verb_action chosen;
  CLI::App root{"Serves the experts of Mixture-of-Experts models from a cluster.", "troupe"};
  root.formatter(std::make_shared<examples_first>());
  root.footer(
      "  troupe up --model ~/models/mixtral      start a cluster on this machine\n"
      "  troupe chat                             talk with the model\n"
      "  troupe status                           what runs, and is it well\n"
      "  troupe node drain expert-1              move everything off a node\n"
      "  troupe down                             stop it");
  root.set_version_flag("--version", "troupe " TROUPE_VERSION);
  root.require_subcommand(1);
  add_global_options(root, options);
  verb_registry verbs{root, chosen};
  for (auto* add :
       {&add_up_verb, &add_cluster_verbs, &add_doctor_verb, &add_node_verbs, &add_expert_verbs, &add_placement_verbs,
        &add_refresh_verbs, &add_operation_verbs, &add_top_verb, &add_model_verbs, &add_keys_verbs, &add_config_verbs,
        &add_text_verbs, &add_bench_verbs, &add_simulate_verb, &add_completion_verbs}) {
    add(verbs);
  }
  name_variables(root);
  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& wanted) {  // --help, --version
    return static_cast<exit_code>(root.exit(wanted));
  } catch (const CLI::ParseError& problem) {
    return report_usage(root, problem, std::span{argv, static_cast<std::size_t>(argc)}.subspan(1));
  }
  try {
    return run_action(chosen, options);
  } catch (const std::exception& problem) {
    print_error(fmt::format("unexpected failure: {}; please report it with the command line", problem.what()));
    return exit_code::failed;
  }
}

}  // namespace troupe::cli
