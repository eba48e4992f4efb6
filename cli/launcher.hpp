// Starts, watches and stops the daemons of a cluster on this machine. It knows processes, files and deadlines; what
// they are started with is the plan's business (launch_plan.hpp). One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/context.hpp"
#include "common/error.hpp"

namespace troupe::cli {

class launcher {
 public:
  // `expert_replicas`: how many replicas make the cluster complete; for the progress shown.
  launcher(std::filesystem::path data_dir, cluster_context context, std::uint64_t expert_replicas);

  // Starts every process of the context that does not run, writes the context and returns their names.
  // When one cannot be started, those that were are stopped again.
  [[nodiscard]] result<std::vector<std::string>> start_missing();

  // Until every process takes part, every expert can be reached and every router says that it is ready. Shows progress
  // on standard error. internal with the last lines of its log when a process ends meanwhile; timeout says what is
  // missing; cancelled when the person asked to stop.
  [[nodiscard]] result<void> wait_until_serving(std::chrono::milliseconds timeout);

  // A process that has ended since it was last asked: "expert-1 was killed by signal 9 (Killed)". Each once.
  [[nodiscard]] std::optional<std::string> next_ended();

  // Ends what start_missing() started.
  void stop_started();

  [[nodiscard]] const cluster_context& context() const { return context_; }
  // Did some of the cluster run before start_missing()?
  [[nodiscard]] bool joined_running_cluster() const { return started_.size() < context_.processes.size(); }

 private:
  [[nodiscard]] std::string why_it_ended(const process_entry& process, const std::string& how) const;
  [[nodiscard]] result<void> check_started_processes();

  std::filesystem::path data_dir_;
  cluster_context context_;
  std::uint64_t expert_replicas_;
  std::vector<process_entry> started_;
  std::vector<process_identity> reported_;
};

// Orderly stop: routers first (they finish what they have accepted), then the coordinator (so that it does not take the
// leaving experts for lost), then the expert nodes. Removes sockets and writes the context of a stopped cluster.
// Returns the names of processes that had to be killed.
[[nodiscard]] result<std::vector<std::string>> stop_cluster(const std::filesystem::path& data_dir,
                                                            const cluster_context& context);

// Keeps two `troupe up` of one data folder apart. conflict when another one is at work; released by the destructor.
class launch_lock {
 public:
  [[nodiscard]] static result<launch_lock> take(const std::filesystem::path& data_dir);
  launch_lock(launch_lock&& other) noexcept;
  launch_lock& operator=(launch_lock&& other) noexcept;
  ~launch_lock();

 private:
  explicit launch_lock(int descriptor) : descriptor_{descriptor} {}
  int descriptor_{-1};
};

}  // namespace troupe::cli
