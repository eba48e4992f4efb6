// troupe-expert: one expert node. Reads flags, starts the node, waits for a signal, stops it.
#include <malloc.h>

#include <charconv>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>

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
#include "expert_node/shell/arena_plan.hpp"
#include "expert_node/shell/node.hpp"

namespace {

using namespace troupe;

struct expert_flags {
  daemon::daemon_flags common;
  std::filesystem::path model;
  std::string type{"auto"};
  std::string device{"cpu"};
  std::uint32_t threads{std::max(1U, std::thread::hardware_concurrency())};
  std::uint32_t slots{};
  std::string memory;
  std::string coordinator;
  std::string listen;
  std::string zone;
  bool link_gpus{};
  bool allow_nonfinite{};
  bool reject_nonfinite{};
};

std::optional<int> parse(int argc, const char* const* argv, expert_flags& flags) {
  daemon::flag_parser parser{"troupe-expert", "Holds experts of a Mixture-of-Experts checkpoint and computes them."};
  daemon::add_daemon_flags(parser, flags.common, "expert-0");
  parser.add("--model", flags.model, "folder of the checkpoint; without it bundles come from other expert nodes");
  parser.add_choice("--dtype", flags.type, {"auto", "f32", "bf16"}, "what experts compute in; auto: as stored");
  parser.add("--device", flags.device, "cpu: oneDNN; reference: plain loops; cuda:N: GPU N, through libtroupe_cuda.so");
  parser.add("--threads", flags.threads, "threads that compute");
  parser.add("--slots", flags.slots, "experts that fit on this node; 0: as --memory, or the whole model");
  parser.add("--memory", flags.memory, "bytes for slots, e.g. 40GiB");
  parser.add("--coordinator", flags.coordinator, "control address; default: the ipc socket in the run folder");
  parser.add("--listen", flags.listen, "data address, ipc:// or tcp://; peers use its sibling (port + 1)");
  parser.add("--zone", flags.zone, "failure domain; default: the machine");
  parser.add("--link-gpus", flags.link_gpus, "fetch experts from other nodes' GPUs over NCCL, which does not encrypt");
  parser.add("--allow-nonfinite", flags.allow_nonfinite, "serve weights that hold NaN or infinity");
  parser.add("--reject-nonfinite", flags.reject_nonfinite, "refuse rows that hold NaN or infinity");
  return parser.parse(argc, argv);
}

std::filesystem::path file_beside_program(const char* name) {
  return std::filesystem::read_symlink("/proc/self/exe").replace_filename(name);
}

result<void> choose_device(const std::string& name, expert::node_options& options) {
  if (name == "cpu" || name == "reference") {
    options.device = name == "cpu" ? expert::device_kind::cpu : expert::device_kind::reference;
    return {};
  }
  constexpr std::string_view prefix = "cuda:";
  const auto* const end = name.data() + name.size();
  if (!name.starts_with(prefix) || std::from_chars(name.data() + prefix.size(), end, options.device_index).ptr != end ||
      name.size() == prefix.size()) {
    return fail(errc::invalid_request, fmt::format("--device {}: use cpu, reference or cuda:N", name));
  }
  options.device = expert::device_kind::cuda;
  options.plugin = file_beside_program("libtroupe_cuda.so");
  return {};
}

result<expert::node_options> to_options(const expert_flags& flags) {
  expert::node_options options;
  options.version = TROUPE_VERSION;
  options.commit = build_commit;
  options.name = {flags.common.name};
  options.data_dir = flags.common.data_dir;
  options.run_dir = daemon::run_folder(flags.common);
  options.http = flags.common.http;
  if (!flags.model.empty()) options.model = flags.model;
  if (flags.type != "auto") options.type = flags.type == "f32" ? dtype::f32 : dtype::bf16;
  if (auto fine = choose_device(flags.device, options); !fine) return fail(fine.error());
  if (flags.link_gpus) {
    if (options.device != expert::device_kind::cuda) {
      return fail(errc::invalid_request, "--link-gpus needs a GPU; give --device cuda:N, or leave it out");
    }
    options.link_plugin = file_beside_program("libtroupe_nccl.so");
  }
  options.threads = flags.threads;
  if (flags.slots != 0) options.slots = flags.slots;
  if (!flags.memory.empty()) {
    options.memory_bytes = expert::parse_bytes(flags.memory);
    if (!options.memory_bytes) {
      return fail(errc::invalid_request,
                  fmt::format("--memory {}: expected bytes such as 512M or 40GiB", flags.memory));
    }
  }
  options.coordinator = flags.coordinator;
  options.listen = flags.listen;
  options.zone = flags.zone;
  options.allow_nonfinite = flags.allow_nonfinite;
  options.reject_nonfinite = flags.reject_nonfinite;
  if (auto fine = expert::validate(options); !fine) return fail(fine.error());
  return options;
}

// Freed memory goes back to the system instead of staying in the allocator's pools: what is resident is what is held.
void bound_allocator() {
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, static_cast<int>(limits::mib));
  mallopt(M_TRIM_THRESHOLD, static_cast<int>(4 * limits::mib));
}

int run(int argc, const char* const* argv) {
  daemon::take_duty(daemon::thread_duty::messages);  // of every thread that takes no other
  bound_allocator();
  auto signals = daemon::stop_signals::install();
  if (!signals) return daemon::complain(signals.error());
  expert_flags flags;
  if (auto code = parse(argc, argv, flags)) return *code;
  auto options = to_options(flags);
  if (!options) return daemon::complain(options.error(), daemon::exit_usage);
  const auto& common = flags.common;
  if (auto log = daemon::start_log({common.name, common.log_level, common.log_format, common.log_file}); !log) {
    return daemon::complain(log.error(), daemon::exit_usage);
  }
  daemon::set_process_name(common.name);
  for (const auto& folder : {options->data_dir, options->run_dir}) {
    if (auto ready = daemon::prepare_private_folder(folder); !ready) return daemon::complain(ready.error());
  }
  auto lock = daemon::instance_lock::take(options->run_dir / (common.name + ".lock"));
  if (!lock) return daemon::complain(lock.error());
  const int code = daemon::serve(
      *signals, [&](auto on_failure) { return expert::expert_node::start(*options, std::move(on_failure)); });
  daemon::stop_log();
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: troupe-expert ended: %s\n", e.what());
    return troupe::daemon::exit_failed;
  }
}
