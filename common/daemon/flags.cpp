#include "common/daemon/flags.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>

#include "common/daemon/data_folder.hpp"
#include "common/limits.hpp"

namespace troupe::daemon {
namespace {

constexpr int usage_exit_code = 2;

// --log-level -> TROUPE_LOG_LEVEL
std::string variable_of(std::string_view flag) {
  std::string name = "TROUPE_";
  for (const char c : flag.substr(2)) {
    name.push_back(c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  }
  return name;
}

}  // namespace

struct flag_parser::state {
  CLI::App app;
  std::string program;

  state(const std::string& description, std::string name) : app(description, name), program(std::move(name)) {}

  template <class Target>
  CLI::Option* add(std::string_view name, Target& target, std::string_view help, presence p) {
    auto* option = app.add_option(std::string(name), target, std::string(help));
    option->envname(variable_of(name))->required(p == presence::required)->capture_default_str();
    return option;
  }
};

flag_parser::flag_parser(std::string program, const std::string& description)
    : state_(std::make_unique<state>(description, std::move(program))) {
  state_->app.set_version_flag("--version", limits::software);
  state_->app.get_formatter()->column_width(40);
}

flag_parser::~flag_parser() = default;

void flag_parser::add(std::string_view name, std::string& target, std::string_view help, presence p) {
  state_->add(name, target, help, p);
}
void flag_parser::add(std::string_view name, std::filesystem::path& target, std::string_view help, presence p) {
  state_->add(name, target, help, p);
}
void flag_parser::add(std::string_view name, std::uint32_t& target, std::string_view help, presence p) {
  state_->add(name, target, help, p);
}
void flag_parser::add(std::string_view name, std::uint64_t& target, std::string_view help, presence p) {
  state_->add(name, target, help, p);
}
void flag_parser::add(std::string_view name, double& target, std::string_view help, presence p) {
  state_->add(name, target, help, p);
}
void flag_parser::add_bytes(std::string_view name, std::uint64_t& target, std::string_view help) {
  state_->add(name, target, help, presence::optional)->transform(CLI::AsSizeValue(false));
}
void flag_parser::add(std::string_view name, bool& target, std::string_view help) {
  state_->app.add_flag(std::string(name), target, std::string(help))->envname(variable_of(name));
}
void flag_parser::add_choice(std::string_view name, std::string& target, const std::vector<std::string>& choices,
                             std::string_view help) {
  state_->add(name, target, help, presence::optional)->check(CLI::IsMember(choices));
}

std::optional<int> flag_parser::parse(int argc, const char* const* argv) {
  try {
    state_->app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::Success& asked) {
    return state_->app.exit(asked);
  } catch (const CLI::ParseError& failure) {
    std::fprintf(stderr, "error: %s; run '%s --help'\n", failure.what(), state_->program.c_str());
    return usage_exit_code;
  }
}

void add_daemon_flags(flag_parser& parser, daemon_flags& flags, std::string_view default_name) {
  flags.name = default_name;
  flags.data_dir = default_data_folder();
  parser.add("--name", flags.name, "name of this node, unique in its cluster");
  parser.add("--data-dir", flags.data_dir, "folder of the cluster: keys, state, logs");
  parser.add("--run-dir", flags.run_dir, "folder of the sockets; default: DATA_DIR/run");
  parser.add("--http", flags.http, "HOST:PORT for /metrics and the probes; default: none");
  parser.add_choice("--log-level", flags.log_level, {"trace", "debug", "info", "warning", "error", "off"},
                    "what goes into the log");
  parser.add_choice("--log-format", flags.log_format, {"text", "json"}, "one line of text or one JSON object each");
  parser.add("--log-file", flags.log_file, "rotated; default: standard error");
}

std::filesystem::path run_folder(const daemon_flags& flags) {
  return flags.run_dir.empty() ? flags.data_dir / "run" : flags.run_dir;
}

}  // namespace troupe::daemon
