// The settings of a cluster: what `troupe up` takes as options, a cluster file as keys and the environment as TROUPE_
// variables, all from one list. Flags win over variables, variables over the file, the file over defaults.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "cli/context.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace troupe::cli {

// All of them. `model` and `options` are written when the command line is parsed.
void add_cluster_options(CLI::App& verb, std::filesystem::path& model, cluster_options& options);

// Cluster files write expert_nodes for --expert-nodes.
[[nodiscard]] std::string option_name(const std::string& key);  // "expert-nodes"
// Those that were typed or are in the environment.
[[nodiscard]] std::map<std::string, setting_origin> given_settings(const CLI::App& verb);

struct setting {
  std::string key;
  std::string value;  // as a cluster file would have it
  std::string help;
  setting_origin origin;
};
// In the order of --help; all of origin "default".
[[nodiscard]] std::vector<setting> list_settings(const std::filesystem::path& model, const cluster_options& options);

}  // namespace troupe::cli
