// The coordinator as a process: opens its store, its doors and its actors in order, and closes them in reverse.
// One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "model/gating.hpp"

namespace troupe::coordinator {

struct daemon_settings {
  std::string version{"0.1.0"};
  std::string commit;  // that the program was built from; empty: not known
  std::string name{"coordinator"};
  std::filesystem::path data_dir;
  std::filesystem::path run_dir;
  std::filesystem::path model;
  std::string listen;      // control address; empty: the ipc socket of run_dir
  std::string http;        // HOST:PORT; empty: none
  std::string cluster_id;  // empty: of the launcher's context.json, of the store, or a new one
  std::uint32_t replication{1};
  std::uint32_t expert_nodes{1};
  std::uint32_t active_experts{};
  std::string policies;  // of add, balance, prune, with commas; empty: none
  std::uint64_t add_queue_rows{};
  double prune_share{0.02};
  std::uint64_t prune_window_seconds{24 * 3600};
  double cold_share{limits::cold_share};
  std::uint64_t cold_stale_seconds{std::chrono::seconds(limits::cold_stale_after).count()};
  model::group_limit groups{};  // as the routers have it
};

class daemon_process {
 public:
  // conflict: another coordinator runs on this folder (faults.md D8), an address is in use (N12), or the store belongs
  // to another cluster or model. Other errors as the parts say.
  [[nodiscard]] static result<std::unique_ptr<daemon_process>> start(const daemon_settings& settings);
  // Answers that are queued leave; actors end.
  ~daemon_process();
  daemon_process(const daemon_process&) = delete;
  daemon_process& operator=(const daemon_process&) = delete;

  [[nodiscard]] const std::string& control_address() const;
  [[nodiscard]] const std::string& cluster_id() const;

 private:
  struct state;
  explicit daemon_process(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::coordinator
