// DATA/context.json: what a cluster on this machine consists of and how it is reached. Written by `troupe up`, read by
// every other verb and by the clients. 0600 in a 0700 folder, replaced atomically. Plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/process.hpp"
#include "common/error.hpp"
#include "common/limits.hpp"

namespace troupe::cli {

// What `troupe up` was asked for; the same again when missing processes are started later.
struct cluster_options {
  std::uint32_t expert_nodes{3};
  std::uint32_t routers{1};
  std::uint32_t replication{1};
  std::uint32_t active_experts{};  // per layer, at the first start; 0: all
  std::string policies{};          // of add, balance, prune; empty: none
  std::uint64_t add_queue_rows{};  // add: only while so many rows wait at the expert nodes
  double prune_share{0.02};
  std::chrono::milliseconds prune_window{std::chrono::hours{24}};
  double cold_share{limits::cold_share};
  std::chrono::milliseconds cold_stale_after{limits::cold_stale_after};
  std::uint32_t cold_reservoir_rows{};  // inputs kept per cold expert and router; 0: none
  std::string record_trace{};           // absolute; where routers write down their loads; empty: nowhere
  double explore_bias{};         // gate probability that a row may lose by trying a cold expert; 0: none is tried
  std::uint32_t route_groups{};  // rows choose inside some of so many groups only; 0: as the family says
  std::uint32_t route_groups_kept{2};
  std::string dtype{"auto"};
  std::string device{"cpu"};
  bool allow_nonfinite{};        // serve weights that hold NaN or infinity
  bool link_gpus{};              // experts go from GPU to GPU over NCCL
  std::string transport{"ipc"};  // ipc | tcp
  std::string http{"127.0.0.1:0"};
  std::uint32_t threads{};         // per expert node; 0: the machine's cores shared out
  std::uint32_t slots{};           // per expert node; 0: chosen from the model and the memory
  std::uint32_t router_threads{};  // per router, for attention and shared experts; 0: the machine's cores
  bool pin_streams{};              // texts keep the expert versions that they began with
  std::uint64_t kv_memory{};       // bytes per router for keys and values; 0: chosen from the model
  std::string api_key_file{};      // absolute; empty: HTTP asks for no key
  bool no_auth{};                  // serve other machines over HTTP without keys
  friend bool operator==(const cluster_options&, const cluster_options&) = default;
};

// Where a setting came from: "flag", "environment", "file" or "default"; and which flag, variable or line.
struct setting_origin {
  std::string kind{"default"};
  std::string where;
  friend bool operator==(const setting_origin&, const setting_origin&) = default;
};

// One of several machines that a cluster file names.
struct machine {
  std::string name;
  std::string address;             // what the other machines reach it at: an IP address
  std::vector<std::string> shell;  // what runs a command there, up to the command: {"ssh", "ann@10.0.0.2"}
  bool is_remote() const { return !shell.empty(); }
  friend bool operator==(const machine&, const machine&) = default;
};

struct process_entry {
  std::string role;  // coordinator | expert | router
  std::string name;
  process_identity identity;
  std::vector<std::string> command;  // complete: running it again starts the same process
  std::string machine{};             // empty: this one. Else `identity` is the process here that keeps it
};

struct router_entry {
  std::string name;
  std::string client;  // ZeroMQ address for clients
  std::string http;    // URL
};

struct cluster_context {
  std::string cluster_id;
  std::filesystem::path model;
  std::string model_fingerprint;
  std::filesystem::path run_dir;
  cluster_options options;
  std::map<std::string, setting_origin> origins;  // of options that are not the defaults, by key
  std::vector<machine> machines;                  // none: all of it is on this one
  std::string control, heartbeat, admin, coordinator_http;
  std::vector<router_entry> routers;
  std::string client_key;                                        // secret key file of the client, relative to DATA
  std::string admin_key;                                         // of the person who types
  std::vector<std::pair<std::string, std::string>> server_keys;  // name -> public key (Z85)
  std::vector<process_entry> processes;
};

// DATA/context.json. not_found when there is none: "no cluster in DATA; start one with ...".
[[nodiscard]] result<cluster_context> load_context(const std::filesystem::path& data_dir);
[[nodiscard]] result<void> save_context(const std::filesystem::path& data_dir, const cluster_context& context);

// `explicit_dir`, else ~/.local/state/troupe/default; absolute.
[[nodiscard]] result<std::filesystem::path> resolve_data_dir(const std::filesystem::path& explicit_dir);
// Makes DATA, DATA/keys and DATA/log (0700). permission_denied names path, owner and mode.
[[nodiscard]] result<void> make_data_dir(const std::filesystem::path& data_dir);

// Entries of processes that run now.
[[nodiscard]] std::vector<process_entry> running_processes(const cluster_context& context);

}  // namespace troupe::cli
