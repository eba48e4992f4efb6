// The command line of `troupe`: global options, verbs, help, and how an outcome becomes an exit status. Verbs live in
// cli/verbs/, one file per noun. One thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>

#include "cli/admin_client.hpp"
#include "cli/context.hpp"
#include "cli/exit_code.hpp"
#include "cli/render.hpp"
#include "common/error.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace troupe::cli {

struct global_options {
  std::string format{"table"};
  std::filesystem::path data_dir;  // empty: the default place
  bool assume_yes{};
  bool dry_run{};
  bool no_wait{};
};

// What a verb works with.
class session {
 public:
  explicit session(const global_options& options) : options_{options} {}

  [[nodiscard]] const global_options& options() const { return options_; }
  [[nodiscard]] output_format format() const { return parse_format(options_.format).value_or(output_format::table); }
  // A page for a person is wanted, not a document for a program.
  [[nodiscard]] bool prints_pages() const {
    return format() == output_format::table || format() == output_format::wide;
  }
  [[nodiscard]] result<std::filesystem::path> data_dir() const { return resolve_data_dir(options_.data_dir); }
  // Prints to standard output.
  void print(const json& document, const view& shown) const;

  // The context of the cluster that was asked for, and a connection to its coordinator. unavailable when it is stopped.
  [[nodiscard]] result<cluster_context> context() const;
  [[nodiscard]] result<admin_client> coordinator() const;

 private:
  const global_options& options_;
};

using verb_action = std::function<result<exit_code>(const session&)>;

class verb_registry {
 public:
  verb_registry(CLI::App& root, verb_action& chosen) : root_{root}, chosen_{chosen} {}

  CLI::App& noun(const std::string& name, const std::string& help);
  // `examples`: whole command lines, shown before anything else in --help.
  CLI::App& verb(CLI::App& parent, const std::string& name, const std::string& help, const std::string& examples,
                 verb_action action);
  CLI::App& verb(const std::string& name, const std::string& help, const std::string& examples, verb_action action);
  [[nodiscard]] const CLI::App& root() const { return root_; }

 private:
  CLI::App& root_;
  verb_action& chosen_;
};

// One per noun; options are kept alive by the actions.
void add_up_verb(verb_registry& verbs);
void add_cluster_verbs(verb_registry& verbs);  // down, status, events
void add_doctor_verb(verb_registry& verbs);
void add_node_verbs(verb_registry& verbs);
void add_expert_verbs(verb_registry& verbs);
void add_placement_verbs(verb_registry& verbs);
void add_refresh_verbs(verb_registry& verbs);
void add_placement_plan_verbs(verb_registry& verbs, CLI::App& placement);
void add_top_verb(verb_registry& verbs);
void add_operation_verbs(verb_registry& verbs);
void add_model_verbs(verb_registry& verbs);
void add_keys_verbs(verb_registry& verbs);
void add_config_verbs(verb_registry& verbs);
void add_completion_verbs(verb_registry& verbs);
void add_text_verbs(verb_registry& verbs);  // generate, chat
void add_bench_verbs(verb_registry& verbs);
void add_simulate_verb(verb_registry& verbs);
void add_generate_bench_verb(verb_registry& verbs, CLI::App& bench);

// Adds an option whose value is a duration: "500ms", "90s", "2m", "1h"; a bare number means seconds.
CLI::Option* add_duration(CLI::App& verb, const std::string& name, std::chrono::milliseconds& value,
                          const std::string& help);

// Parses, runs, prints errors; never throws.
[[nodiscard]] exit_code run_command_line(int argc, const char* const* argv);

}  // namespace troupe::cli
