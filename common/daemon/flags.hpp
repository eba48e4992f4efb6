// Command line of a daemon. Each flag --some-name can also be given as TROUPE_SOME_NAME; the flag wins over the
// variable, which wins over the default (the value that the target has when it is added).
//
//   flag_parser flags("troupe-expert", "Serves experts of a MoE checkpoint.");
//   daemon_flags common;   add_daemon_flags(flags, common);
//   flags.add("--threads", threads, "threads that compute");
//   if (auto exit_code = flags.parse(argc, argv)) return *exit_code;
//
// For main alone; not thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::daemon {

class flag_parser {
 public:
  flag_parser(std::string program, const std::string& description);
  ~flag_parser();
  flag_parser(const flag_parser&) = delete;
  flag_parser& operator=(const flag_parser&) = delete;

  enum class presence : std::uint8_t { optional, required };

  // `name` begins with "--". The target is written by parse() and must live until then.
  void add(std::string_view name, std::string& target, std::string_view help, presence p = presence::optional);
  void add(std::string_view name, std::filesystem::path& target, std::string_view help,
           presence p = presence::optional);
  void add(std::string_view name, std::uint32_t& target, std::string_view help, presence p = presence::optional);
  void add(std::string_view name, std::uint64_t& target, std::string_view help, presence p = presence::optional);
  void add(std::string_view name, double& target, std::string_view help, presence p = presence::optional);
  // Bytes, with or without a unit: 8GiB, 512MiB, 1000000.
  void add_bytes(std::string_view name, std::uint64_t& target, std::string_view help);
  // Given without a value: true. The variable may say 1, true, yes or on.
  void add(std::string_view name, bool& target, std::string_view help);
  // One of `choices`.
  void add_choice(std::string_view name, std::string& target, const std::vector<std::string>& choices,
                  std::string_view help);

  // nullopt: go on. Else the process ends with this code: 0 after --help or --version (printed on standard output), 2
  // after a usage error (standard error: what is wrong, and --help).
  [[nodiscard]] std::optional<int> parse(int argc, const char* const* argv);

 private:
  struct state;
  std::unique_ptr<state> state_;
};

// The flags of every daemon.
struct daemon_flags {
  std::string name;                // of the node, unique in its cluster
  std::filesystem::path data_dir;  // default_data_folder()
  std::filesystem::path run_dir;   // sockets; empty after parsing: DATA/run
  std::string http;                // HOST:PORT of /metrics and the probes; empty: none
  std::string log_level{"info"};
  std::string log_format{"text"};
  std::filesystem::path log_file;  // empty: standard error
};

// `default_name`: what --name is when it is not given.
void add_daemon_flags(flag_parser& parser, daemon_flags& flags, std::string_view default_name);

// DATA/run unless --run-dir was given.
[[nodiscard]] std::filesystem::path run_folder(const daemon_flags& flags);

}  // namespace troupe::daemon
