// Which machines a cluster file means, how they are reached, and what each of them gets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/cluster_file.hpp"
#include "cli/context.hpp"
#include "common/error.hpp"

namespace troupe::cli {

struct machine_share {
  machine where;
  std::string zone;
  std::uint32_t expert_nodes{};
  std::uint32_t routers{};
  std::uint16_t port{};  // the first that is used there
};

// The file's machines, or those of the Slurm job that this process is part of. None: all is on this machine.
// `options`: expert_nodes and routers are spread evenly where the machines do not say how many they have; they are set
// to what it comes to. `has_count`: expert_nodes was asked for; else one on each machine. invalid_request, not_found.
[[nodiscard]] result<std::vector<machine_share>> share_out(const cluster_file& file, cluster_options& options,
                                                           bool has_count);

}  // namespace troupe::cli
