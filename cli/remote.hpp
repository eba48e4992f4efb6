// Commands on other machines, through ssh or srun: the words that run a command there (machine::shell) get one more
// word, a line for sh.
//
// A daemon there is kept by a process here, `troupe run-remote`: it lives as long as the daemon, its output is the
// daemon's, and when it is told to stop or dies, the daemon is told to stop. So the launcher sees a remote daemon like
// any other.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "cli/context.hpp"
#include "cli/exit_code.hpp"
#include "common/error.hpp"

namespace troupe::cli {

struct line_outcome {
  int code{};  // exit status; 1 when a signal ended it
  std::string said;
};
// Runs a line of sh on this machine to its end. internal when no shell can be started.
[[nodiscard]] result<line_outcome> run_line(const std::string& line);

// One word of sh, whatever is in it.
[[nodiscard]] std::string quote_for_shell(const std::string& word);

// The command line here that keeps `command` running on the machine.
[[nodiscard]] std::vector<std::string> keeper_of(const machine& where, const std::filesystem::path& troupe,
                                                 std::span<const std::string> command);
// What that command line does. `words`: what follows "run-remote --".
[[nodiscard]] result<exit_code> run_remote(std::span<const std::string> words);

// Gives the machine the keys of its processes, the coordinator's public key and the list of authorised keys, unless the
// data folder there is this one. unavailable with what the command said.
[[nodiscard]] result<void> send_keys(const std::filesystem::path& data_dir, const cluster_context& context,
                                     const machine& where);
// The same for all machines of the cluster.
[[nodiscard]] result<void> send_keys(const std::filesystem::path& data_dir, const cluster_context& context);

}  // namespace troupe::cli
