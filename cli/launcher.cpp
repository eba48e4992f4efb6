#include "cli/launcher.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <utility>

#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/readiness.hpp"
#include "cli/terminal.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;
using clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds look_interval{100};
constexpr std::size_t log_lines_shown = 12;
// A daemon's own grace for work in progress, and some time to close its files.
constexpr auto stop_grace = limits::shutdown_grace + std::chrono::seconds{2};

void remove_sockets(const fs::path& data_dir, const fs::path& run_dir) {
  std::error_code ignored;
  std::vector<fs::path> leftovers;
  for (fs::directory_iterator entry{run_dir, ignored}; !ignored && entry != fs::directory_iterator{};
       entry.increment(ignored)) {
    const auto kind = entry->path().extension();
    if (kind == ".ipc" || kind == ".lock") leftovers.push_back(entry->path());
  }
  for (const auto& leftover : leftovers) fs::remove(leftover, ignored);
  // Only an empty folder goes, whatever the context says.
  if (run_dir != data_dir / "run") fs::remove(run_dir, ignored);
}

}  // namespace

launcher::launcher(fs::path data_dir, cluster_context context, std::uint64_t expert_replicas)
    : data_dir_{std::move(data_dir)}, context_{std::move(context)}, expert_replicas_{expert_replicas} {}

result<std::vector<std::string>> launcher::start_missing() {
  std::vector<std::string> names;
  for (auto& process : context_.processes) {
    if (is_running(process.identity)) continue;
    auto identity = start_daemon(process.command, data_dir_ / "log" / (process.name + ".log"));
    if (!identity) {
      stop_started();
      return fail(identity.error());
    }
    process.identity = *identity;
    started_.push_back(process);
    names.push_back(process.name);
  }
  if (auto saved = save_context(data_dir_, context_); !saved) {
    stop_started();
    return fail(saved.error());
  }
  return names;
}

result<void> launcher::wait_until_serving(std::chrono::milliseconds timeout) {
  const auto deadline = clock::now() + timeout;
  progress shown{std::cerr, "loading experts", stderr_is_terminal(), clock::now()};
  readiness_probe probe{data_dir_, context_, expert_replicas_, joined_running_cluster()};
  while (true) {
    if (auto alive = check_started_processes(); !alive) return alive;
    const readiness found = probe.look();
    if (found.replicas_loaded > 0) shown.update(found.replicas_loaded, expert_replicas_, clock::now());
    if (found.ready) return {};
    if (clock::now() >= deadline) {
      return fail(errc::timeout,
                  fmt::format("the cluster does not serve after {} s: {}; see the logs in {}, or allow more "
                              "time with --timeout",
                              timeout.count() / 1000, found.missing, (data_dir_ / "log").string()));
    }
    if (wait_for_interrupt(look_interval)) return fail(errc::cancelled, "interrupted before the cluster was ready");
  }
}

result<void> launcher::check_started_processes() {
  for (const auto& process : started_) {
    if (is_running(process.identity)) continue;
    const auto how = reap(process.identity.pid);
    return fail(errc::internal, why_it_ended(process, how.value_or("ended")));
  }
  return {};
}

std::optional<std::string> launcher::next_ended() {
  for (const auto& process : context_.processes) {
    if (is_running(process.identity)) continue;
    if (std::find(reported_.begin(), reported_.end(), process.identity) != reported_.end()) continue;
    reported_.push_back(process.identity);
    return fmt::format("{} {}", process.name, reap(process.identity.pid).value_or("ended"));
  }
  return std::nullopt;
}

std::string launcher::why_it_ended(const process_entry& process, const std::string& how) const {
  const fs::path log = data_dir_ / "log" / (process.name + ".log");
  const auto lines = last_lines(log, log_lines_shown);
  std::string text =
      fmt::format("{} {} while the cluster was starting; its log is {}", process.name, how, log.string());
  for (const auto& line : lines) text += "\n  | " + printable(line);
  return text;
}

void launcher::stop_started() {
  std::vector<process_identity> identities;
  for (const auto& process : started_) identities.push_back(process.identity);
  (void)stop_processes(identities, stop_grace);
  if (!joined_running_cluster()) {
    remove_sockets(data_dir_, context_.run_dir);
    context_.processes.clear();
    context_.routers.clear();
    (void)save_context(data_dir_, context_);
  }
  started_.clear();
}

result<std::vector<std::string>> stop_cluster(const fs::path& data_dir, const cluster_context& context) {
  std::vector<std::string> killed_names;
  for (const char* role : {"router", "coordinator", "expert"}) {
    std::vector<process_identity> identities;
    for (const auto& process : context.processes) {
      if (process.role == role) identities.push_back(process.identity);
    }
    const auto killed = stop_processes(identities, stop_grace);
    for (const auto& process : context.processes) {
      if (std::find(killed.begin(), killed.end(), process.identity) != killed.end())
        killed_names.push_back(process.name);
    }
  }
  remove_sockets(data_dir, context.run_dir);
  cluster_context stopped = context;
  stopped.processes.clear();
  stopped.routers.clear();
  if (auto saved = save_context(data_dir, stopped); !saved) return fail(saved.error());
  return killed_names;
}

result<launch_lock> launch_lock::take(const fs::path& data_dir) {
  const fs::path path = data_dir / "up.lock";
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0)
    return fail(errc::permission_denied, fmt::format("cannot write {}; choose another --data-dir", path.string()));
  launch_lock lock{descriptor};
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    return fail(errc::conflict,
                fmt::format("another troupe up is starting the cluster of {}; wait for it, or stop it with "
                            "troupe down",
                            data_dir.string()));
  }
  return lock;
}

launch_lock::launch_lock(launch_lock&& other) noexcept : descriptor_{std::exchange(other.descriptor_, -1)} {}

launch_lock& launch_lock::operator=(launch_lock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

launch_lock::~launch_lock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace troupe::cli
