// troupe-router: one router. Reads flags, starts the router, waits for a signal, stops it.
#include <malloc.h>

#include <cstdio>
#include <exception>
#include <string>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/build_commit.hpp"
#include "common/daemon/data_folder.hpp"
#include "common/daemon/flags.hpp"
#include "common/daemon/log.hpp"
#include "common/daemon/process.hpp"
#include "common/daemon/serve.hpp"
#include "common/daemon/signals.hpp"
#include "common/limits.hpp"
#include "router_node/shell/router.hpp"

namespace {

using namespace troupe;

struct router_flags {
  daemon::daemon_flags common;
  std::string listen;
  router::router_options options;
};

std::optional<int> parse(int argc, const char* const* argv, router_flags& flags) {
  daemon::flag_parser parser{"troupe-router", "Gates, dispatches and combines the MoE layers of a checkpoint."};
  daemon::add_daemon_flags(parser, flags.common, "router-0");
  auto& options = flags.options;
  parser.add("--model", options.model, "folder of the checkpoint", daemon::flag_parser::presence::required);
  parser.add_choice("--dtype", options.type, {"auto", "f32", "bf16"}, "what the experts compute in; auto: as stored");
  parser.add("--threads", options.threads, "threads for attention and shared experts");
  parser.add_bytes("--kv-memory", options.kv_bytes, "keys and values of running texts, e.g. 2GiB; 0: chosen");
  parser.add("--pin-streams", options.pins, "texts in progress keep the weights that they began with over a refresh");
  parser.add("--api-key-file", options.api_keys, "keys that HTTP clients must show, one per line; default: none");
  parser.add("--no-auth", options.no_auth, "serve HTTP beyond loopback without keys");
  parser.add(
      "--record-trace", options.record_trace,
      "write what experts have to do into this CSV file, or a new one in this folder, for troupe simulate --loads");
  parser.add("--record-trace-seconds", options.record_seconds, "time of one step in that file");
  parser.add("--coordinator", options.coordinator, "control address; default: the ipc socket in the run folder");
  parser.add("--route-groups", options.groups.groups,
             "a row chooses inside some of so many groups of experts only: an approximation; 0: as the family says");
  parser.add("--route-groups-kept", options.groups.kept, "how many of the groups");
  parser.add("--cold-reservoir-rows", options.cold_reservoir_rows,
             "inputs of each cold expert that are kept for training; 0: none");
  parser.add("--explore-bias", options.explore_bias,
             "an approximation: gate probability that a row may lose by trying a cold expert; 0: none is tried");
  parser.add("--listen", flags.listen, "client addresses, ipc:// or tcp://, separated by commas");
  return parser.parse(argc, argv);
}

void complete(router_flags& flags) {
  auto& options = flags.options;
  options.version = TROUPE_VERSION;
  options.commit = build_commit;
  options.name = {flags.common.name};
  options.data_dir = flags.common.data_dir;
  options.run_dir = daemon::run_folder(flags.common);
  options.http = flags.common.http;
  for (std::size_t begin = 0; begin < flags.listen.size();) {
    const auto end = std::min(flags.listen.find(',', begin), flags.listen.size());
    if (end > begin) options.listen.push_back(flags.listen.substr(begin, end - begin));
    begin = end + 1;
  }
}

// Tensors of some MiB come and go with every request: the pages stay with the process instead of being faulted in anew
// each time.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, static_cast<int>(32 * limits::mib));
  mallopt(M_TRIM_THRESHOLD, static_cast<int>(256 * limits::mib));
}

int run(int argc, const char* const* argv) {
  daemon::take_duty(daemon::thread_duty::messages);  // of every thread that takes no other
  auto signals = daemon::stop_signals::install();
  if (!signals) return daemon::complain(signals.error());
  router_flags flags;
  if (auto code = parse(argc, argv, flags)) return *code;
  complete(flags);
  const auto& common = flags.common;
  if (auto fine = router::validate(flags.options); !fine) return daemon::complain(fine.error(), daemon::exit_usage);
  if (auto log = daemon::start_log({common.name, common.log_level, common.log_format, common.log_file}); !log) {
    return daemon::complain(log.error(), daemon::exit_usage);
  }
  daemon::set_process_name(common.name);
  keep_freed_memory();
  for (const auto& folder : {flags.options.data_dir, flags.options.run_dir}) {
    if (auto ready = daemon::prepare_private_folder(folder); !ready) return daemon::complain(ready.error());
  }
  auto lock = daemon::instance_lock::take(flags.options.run_dir / (common.name + ".lock"));
  if (!lock) return daemon::complain(lock.error());
  const int code = daemon::serve(
      *signals, [&](auto on_failure) { return router::router::start(flags.options, std::move(on_failure)); });
  daemon::stop_log();
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: troupe-router ended: %s\n", e.what());
    return troupe::daemon::exit_failed;
  }
}
