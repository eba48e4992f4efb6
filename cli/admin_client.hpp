// The admin conversation with the coordinator (proto/admin.proto): one request at a time, each with a deadline.
// One thread.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/context.hpp"
#include "cli/render.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"

namespace troupe::cli {

enum class query_kind : int {
  status = 1,
  nodes = 2,
  experts = 3,
  events = 4,
  operations = 5,
  history = 6,
  explanation = 7,
  refreshes = 8
};

struct query {
  query_kind kind{query_kind::status};
  std::string layer{};  // experts: only this layer
  std::string node{};   // nodes: only this one
  std::uint64_t events_after{};
  std::string expert{};  // explanation: "3/17"
};

enum class node_action { drain, undrain, remove };

enum class expert_action { migrate, replicate, pin, unpin, prune, restore, add };
struct expert_command {
  expert_action action{expert_action::migrate};
  expert_id expert;
  std::string to{};       // migrate: the node
  std::string from{};     // migrate: the node whose replica is given up; empty: the coordinator chooses
  std::uint32_t count{};  // replicate
  bool dry_run{};
};

// When a folder is looked into again and again. Neither time nor batches: no longer.
struct schedule_command {
  std::chrono::milliseconds every{};
  std::uint64_t every_batches{};
  std::uint32_t moves_max{};  // replicas that move each time to even out the loads
  std::string folder{};
  bool paused{};  // only that; the rest is ignored
  bool dry_run{};
};

class admin_client {
 public:
  // Connects and shakes hands. unavailable when the coordinator does not answer within the timeout; wrong_version and
  // wrong_cluster as the coordinator says.
  [[nodiscard]] static result<admin_client> connect(const std::filesystem::path& data_dir,
                                                    const cluster_context& context, std::chrono::milliseconds timeout);
  admin_client(admin_client&&) noexcept;
  admin_client& operator=(admin_client&&) noexcept;
  ~admin_client();

  // The document of docs/cli.md.
  [[nodiscard]] result<json> ask(const query& what);
  // Durable when it returns. conflict, not_found as the coordinator says; `force` only matters for remove.
  [[nodiscard]] result<json> act(node_action action, const std::string& node, bool dry_run, bool force = false);
  [[nodiscard]] result<json> act(const expert_command& command);
  // `folder`: absolute; `layer`: "3", "encoder.1", empty: all. Waits up to `timeout` for the coordinator to read it.
  // invalid_request, corrupt and the like say what is wrong with the folder.
  [[nodiscard]] result<json> refresh(const std::string& folder, const std::string& layer, bool dry_run,
                                     std::chrono::milliseconds timeout);
  [[nodiscard]] result<json> schedule(const schedule_command& command);
  // On which nodes each of these experts is to be.
  [[nodiscard]] result<json> apply(const std::map<expert_id, std::vector<std::string>>& places, bool dry_run);
  [[nodiscard]] result<json> roll_back(std::uint64_t epoch, bool dry_run);
  [[nodiscard]] result<json> cancel(const std::string& operation, bool dry_run);

 private:
  struct state;
  explicit admin_client(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::cli
