// Decides what a cluster on this machine consists of: names, addresses, slots and the complete command line of each
// daemon. Pure but for looking for free ports. Starting it is the launcher's business.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/context.hpp"
#include "cli/machines.hpp"
#include "common/error.hpp"

namespace troupe::model {
struct description;
}

namespace troupe::cli {

struct machine_facts {
  std::uint32_t cores{1};
  std::uint64_t memory_available{};  // bytes that can be used without swapping, the cgroup's limit included
};
[[nodiscard]] machine_facts this_machine();

// Of each expert node: the cores shared out, but two where there are two. A node of one thread leaves the other cores
// idle whenever a call needs several of its experts and the other nodes are done.
[[nodiscard]] std::uint32_t default_threads(std::uint32_t cores, std::uint32_t expert_nodes);

// Bytes that one expert of the model's largest shape takes in a slot, padding included. `dtype`: auto counts as the
// wider of what it may become.
[[nodiscard]] std::uint64_t slot_bytes_of(const model::description& model, const std::string& dtype);
[[nodiscard]] std::uint32_t expert_count_of(const model::description& model);

[[nodiscard]] std::vector<std::uint32_t> experts_by_layer(const model::description& model);

// Slots per expert node: as many as let the survivors of one lost node hold every replica, and as a refresh needs that
// loads the largest layer anew beside all that serves; within 80 % of the memory. `experts`: of each layer.
// out_of_memory with the numbers when not even the replicas themselves fit.
[[nodiscard]] result<std::uint32_t> choose_slots(const cluster_options& options,
                                                 const std::vector<std::uint32_t>& experts, std::uint64_t slot_bytes,
                                                 const machine_facts& machine);

// Values that can never be right together: invalid_request.
[[nodiscard]] result<void> check_options(const cluster_options& options);
// The same for what can never be right with this model.
[[nodiscard]] result<void> check_options_for(const cluster_options& options, const model::description& model);

struct launch_inputs {
  std::filesystem::path data_dir;
  std::filesystem::path run_dir;
  std::filesystem::path programs;  // the folder that holds the daemons
  std::filesystem::path model;     // absolute
  std::string model_fingerprint;
  std::string cluster_id;
  std::uint32_t slots{};
  std::uint32_t threads{};         // of each expert node
  std::uint32_t router_threads{};  // of each router
  // Of several machines: what each gets. The coordinator is on the first. None: all on this one, with free ports.
  std::vector<machine_share> machines{};
};

// Everything but keys and pids. conflict when a port that was asked for is taken.
[[nodiscard]] result<cluster_context> plan_cluster(const launch_inputs& inputs, const cluster_options& options);

// DATA/run, or a fresh folder under the system's temporary one when socket paths would not fit 107 bytes; 0700.
[[nodiscard]] result<std::filesystem::path> make_run_dir(const std::filesystem::path& data_dir);
// Does a folder leave room for the longest socket name within an ipc path?
[[nodiscard]] bool socket_paths_fit(const std::filesystem::path& run_dir);

}  // namespace troupe::cli
