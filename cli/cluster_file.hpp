// A cluster file: YAML with the settings of `troupe up` as keys, and the machines that it is spread over.
//
//   model: /models/mixtral       # the same path on every machine
//   replication: 2
//   machines:
//     - address: 10.0.0.1        # the first one has the coordinator
//     - {address: 10.0.0.2, ssh: ann@10.0.0.2, expert_nodes: 2}
//
// Reading collects all that is wrong, so that it can be mended in one go.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cli/cluster_settings.hpp"
#include "common/error.hpp"

namespace troupe::cli {

struct file_problem {
  int line{};  // 0: of the whole file
  std::string message;
};

struct file_entry {
  std::string key;
  std::vector<std::string> values;  // one, or the elements of a list
  int line{};
};

struct machine_entry {
  std::string name;     // empty: the address
  std::string address;  // a name or an IP address
  std::string ssh;      // empty: the address; "none": this machine
  std::string zone;     // empty: the machine
  // 0 everywhere: expert_nodes and routers of the whole file are spread evenly.
  std::uint32_t expert_nodes{};
  std::uint32_t routers{};
  std::uint16_t port{};  // 0: as of the whole file
  int line{};
};

struct cluster_file {
  std::filesystem::path path;
  std::vector<file_entry> settings;
  std::vector<machine_entry> machines;
  bool is_slurm{};           // machines: slurm
  std::string ssh{"ssh"};    // the command, with its options
  std::uint16_t port{7400};  // the first that is used on each machine
  std::vector<file_problem> problems;
};

// not_found: there is no such file. What is wrong inside is in `problems`.
[[nodiscard]] result<cluster_file> read_cluster_file(const std::filesystem::path& path);

// Gives the file's settings to the options of add_cluster_options that were neither typed nor set in the environment.
// What is wrong with them is added to the file's problems. Returns the origins of all options that are not the default.
[[nodiscard]] std::map<std::string, setting_origin> apply_settings(cluster_file& file, CLI::App& verb);

// "/x/cluster.yaml:3: replicatoin: unknown key; did you mean replication?"
[[nodiscard]] std::string to_string(const file_problem& problem, const std::filesystem::path& path);

}  // namespace troupe::cli
