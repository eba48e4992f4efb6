// troupe-coordinator: reads flags, starts the process, waits for a signal.
#include <spdlog/spdlog.h>

#include "common/build_commit.hpp"
#include "common/daemon/flags.hpp"
#include "common/daemon/log.hpp"
#include "common/daemon/process.hpp"
#include "common/daemon/serve.hpp"
#include "common/daemon/signals.hpp"
#include "common/limits.hpp"
#include "coordinator/shell/daemon.hpp"

int main(int argc, char** argv) {
  auto signals = troupe::daemon::stop_signals::install();
  if (!signals) return troupe::daemon::complain(signals.error());
  troupe::coordinator::daemon_settings settings;
  troupe::daemon::daemon_flags common;
  troupe::daemon::flag_parser flags("troupe-coordinator", "Decides which expert lives where, and tells everybody.");
  troupe::daemon::add_daemon_flags(flags, common, "coordinator");
  flags.add("--model", settings.model, "folder of the checkpoint", troupe::daemon::flag_parser::presence::required);
  flags.add("--replication", settings.replication, "replicas of each expert, on as many nodes");
  flags.add("--expert-nodes", settings.expert_nodes, "expert nodes that the first placement waits for");
  flags.add("--active-experts", settings.active_experts,
            "per layer, at the first start; the others are added later; 0: all take part");
  flags.add("--policies", settings.policies,
            "what is done without being asked: add, balance, prune, or some of them with commas; default: nothing");
  flags.add("--add-queue-rows", settings.add_queue_rows,
            "add: only while so many rows wait at the expert nodes together; 0: whether they wait or not");
  flags.add("--prune-share", settings.prune_share, "prune: under this share of its layer's traffic");
  flags.add("--prune-window-seconds", settings.prune_window_seconds, "prune: for as long as this");
  flags.add("--cold-share", settings.cold_share,
            "an expert with less than this part of the fair share of its layer's rows is cold; 0: none is");
  flags.add("--cold-stale-seconds", settings.cold_stale_seconds,
            "a cold expert that got no other weights for as long is told of");
  flags.add(
      "--route-groups", settings.groups.groups,
      "routers limit rows to some of so many groups of experts: place by them; 0: by the family's groups, if any");
  flags.add("--route-groups-kept", settings.groups.kept, "how many of the groups");
  flags.add("--listen", settings.listen,
            "control address, tcp://HOST:PORT (P+1: heartbeats, P+2: admin); default: ipc");
  flags.add("--cluster-id", settings.cluster_id, "default: the launcher's, the one on disk, or a new one");
  if (auto exit_code = flags.parse(argc, argv)) return *exit_code;
  settings.version = TROUPE_VERSION;
  settings.commit = troupe::build_commit;
  settings.name = common.name;
  settings.data_dir = common.data_dir;
  settings.run_dir = troupe::daemon::run_folder(common);
  settings.http = common.http;

  auto log = troupe::daemon::start_log({common.name, common.log_level, common.log_format, common.log_file});
  if (!log) return troupe::daemon::complain(log.error());
  troupe::daemon::set_process_name("troupe-coord");
  auto process = troupe::coordinator::daemon_process::start(settings);
  if (!process) {
    troupe::daemon::stop_log();
    return troupe::daemon::complain(process.error());
  }
  spdlog::info("cluster {} is coordinated at {}", (*process)->cluster_id(), (*process)->control_address());
  troupe::daemon::notify_service("READY=1");
  auto signal = signals->wait();
  spdlog::info("stopping after signal {}", signal.value_or(0));
  troupe::daemon::notify_service("STOPPING=1");
  {
    troupe::daemon::shutdown_watchdog watchdog(*signals, troupe::limits::shutdown_grace);
    process->reset();
  }
  troupe::daemon::stop_log();
  return 0;
}
