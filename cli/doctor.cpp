#include "cli/doctor.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "cli/context.hpp"
#include "cli/launch_plan.hpp"
#include "cli/ports.hpp"
#include "cli/render.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

// A cluster of 20 processes with 100 links each stays far below.
constexpr rlim_t descriptors_wanted = 4096;
// One segment per link between a router and an expert node.
constexpr std::uint64_t shared_memory_wanted = 256 * limits::mib;
constexpr std::uint64_t memory_wanted = limits::gib;
constexpr std::uint64_t disk_wanted = 256 * limits::mib;

std::string cpu_flags() {
  std::ifstream file{"/proc/cpuinfo"};
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("flags")) return line + " ";
  }
  return {};
}

finding check_processor() {
  const std::string flags = cpu_flags();
  const auto has = [&flags](const char* name) { return flags.find(fmt::format(" {} ", name)) != std::string::npos; };
  const unsigned cores = this_machine().cores;
  if (has("amx_bf16")) return {"processor", verdict::pass, fmt::format("{} cores, bf16 in hardware (AMX)", cores), ""};
  if (has("avx512_bf16"))
    return {"processor", verdict::pass, fmt::format("{} cores, bf16 in hardware (AVX-512)", cores), ""};
  if (has("avx512f") || has("avx2")) {
    return {"processor", verdict::warn, fmt::format("{} cores, vector units, but no bf16 in hardware", cores),
            "use --dtype f32, which is the faster one here"};
  }
  return {"processor", verdict::warn, fmt::format("{} cores without AVX2", cores), "expect a tenth of the usual speed"};
}

finding check_memory() {
  const auto available = this_machine().memory_available;
  const std::string text = human_bytes(static_cast<double>(available)) + " available";
  if (available >= memory_wanted) return {"memory", verdict::pass, text, ""};
  return {"memory", verdict::warn, text, "stop other programs; troupe model plan says what a checkpoint needs"};
}

finding check_shared_memory() {
  struct statvfs space {};
  if (::statvfs("/dev/shm", &space) != 0 || ::access("/dev/shm", W_OK) != 0) {
    return {"shared memory", verdict::warn, "/dev/shm cannot be used",
            "mount a tmpfs at /dev/shm; without it rows travel through sockets, which is slower"};
  }
  const std::uint64_t free = std::uint64_t{space.f_bavail} * space.f_frsize;
  const std::string text = human_bytes(static_cast<double>(free)) + " free in /dev/shm";
  if (free >= shared_memory_wanted) return {"shared memory", verdict::pass, text, ""};
  return {"shared memory", verdict::warn, text,
          "make it larger (docker: --shm-size=1g), or remove stale files from it"};
}

finding check_descriptors() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const std::string text = fmt::format("{} open files allowed ({} at most)", limit.rlim_cur, limit.rlim_max);
  if (limit.rlim_cur >= descriptors_wanted) return {"open files", verdict::pass, text, ""};
  return {"open files", verdict::warn, text, fmt::format("ulimit -n {}", descriptors_wanted)};
}

// The first folder of the path that exists: where the data would be written.
fs::path existing_part(fs::path path) {
  std::error_code ignored;
  while (!fs::exists(path, ignored) && path.has_relative_path()) path = path.parent_path();
  return path;
}

finding check_disk(const fs::path& data_dir) {
  const fs::path place = existing_part(data_dir);
  struct statvfs space {};
  if (::statvfs(place.c_str(), &space) != 0 || ::access(place.c_str(), W_OK) != 0) {
    return {"data folder", verdict::fail, fmt::format("{} cannot be written by user {}", place.string(), ::getuid()),
            "choose another --data-dir, or change the folder's owner"};
  }
  const std::uint64_t free = std::uint64_t{space.f_bavail} * space.f_frsize;
  const std::string text = fmt::format("{} free for {}", human_bytes(static_cast<double>(free)), data_dir.string());
  if (free >= disk_wanted) return {"data folder", verdict::pass, text, ""};
  return {"data folder", verdict::warn, text, "make room: logs and the coordinator's state go there"};
}

finding check_socket_paths(const fs::path& data_dir) {
  if (socket_paths_fit(data_dir / "run")) return {"socket paths", verdict::pass, "short enough for ipc", ""};
  return {"socket paths", verdict::warn, "the data folder's path is too long for ipc sockets",
          "nothing to do: they go to a short folder under the temporary one; a shorter --data-dir avoids that"};
}

finding check_keys(const fs::path& data_dir) {
  std::error_code failure;
  int open_to_others = 0;
  int keys = 0;
  for (fs::directory_iterator entry{data_dir / "keys", failure}; !failure && entry != fs::directory_iterator{};
       entry.increment(failure)) {
    if (entry->path().extension() != ".key") continue;
    struct stat found {};
    ++keys;
    if (::stat(entry->path().c_str(), &found) != 0 || (found.st_mode & 077U) != 0) ++open_to_others;
  }
  if (keys == 0) return {"keys", verdict::pass, "none yet; troupe up makes them", ""};
  if (open_to_others == 0)
    return {"keys", verdict::pass, fmt::format("{} secret keys, readable by you alone", keys), ""};
  return {"keys", verdict::fail, fmt::format("{} of {} secret keys can be read by others", open_to_others, keys),
          fmt::format("chmod 600 {}/keys/*.key", data_dir.string())};
}

finding check_ports() {
  if (const auto port = find_free_ports("127.0.0.1", 3, {}); !port) {
    return {"ports", verdict::fail, port.error().message, "stop what listens there"};
  }
  return {"ports", verdict::pass, "free ports on 127.0.0.1", ""};
}

finding check_cluster(const fs::path& data_dir) {
  const auto context = load_context(data_dir);
  if (!context) {
    if (context.error().code == errc::unavailable) return {"cluster", verdict::pass, "none in this data folder", ""};
    return {"cluster", verdict::fail, context.error().message, "remove the file and run troupe up again"};
  }
  const auto running = running_processes(*context).size();
  const auto known = context->processes.size();
  if (running == known) {
    return {"cluster", verdict::pass, known == 0 ? "stopped" : fmt::format("all {} processes run", known), ""};
  }
  return {"cluster", verdict::warn, fmt::format("{} of {} processes run", running, known),
          running == 0 ? "it was not stopped in an orderly way: troupe down cleans up, troupe up starts it again"
                       : "troupe up with the same --model and --data-dir starts what is missing"};
}

finding check_stale_sockets(const fs::path& data_dir) {
  const auto context = load_context(data_dir);
  const bool running = context && !running_processes(*context).empty();
  const fs::path run_dir = context && !context->run_dir.empty() ? context->run_dir : data_dir / "run";
  std::error_code failure;
  int sockets = 0;
  for (fs::directory_iterator entry{run_dir, failure}; !failure && entry != fs::directory_iterator{};
       entry.increment(failure)) {
    sockets += entry->path().extension() == ".ipc" ? 1 : 0;
  }
  if (running || sockets == 0) return {"stale sockets", verdict::pass, "none", ""};
  return {"stale sockets", verdict::warn, fmt::format("{} in {}", sockets, run_dir.string()),
          "troupe down removes them"};
}

// Is there a Python that has the client? Looked for as files, since starting interpreters is slow and may hang.
finding check_python() {
  std::vector<fs::path> roots;
  if (const char* environment = std::getenv("VIRTUAL_ENV"); environment != nullptr)
    roots.emplace_back(fs::path{environment} / "lib");
  roots.insert(roots.end(), {"/usr/local/lib", "/usr/lib"});
  for (const auto& root : roots) {
    std::error_code failure;
    for (fs::directory_iterator entry{root, failure}; !failure && entry != fs::directory_iterator{};
         entry.increment(failure)) {
      if (!entry->path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"}) {
        std::error_code ignored;
        const fs::path found = entry->path() / packages / "troupe/__init__.py";
        if (fs::exists(found, ignored)) return {"python client", verdict::pass, found.parent_path().string(), ""};
      }
    }
  }
  return {"python client", verdict::warn, "the package troupe is not installed for python3",
          "in a virtual environment: pip install ./client/python"};
}

}  // namespace

std::vector<finding> examine_machine(const fs::path& data_dir) {
  return {check_processor(),       check_memory(),       check_shared_memory(),
          check_descriptors(),     check_disk(data_dir), check_socket_paths(data_dir),
          check_keys(data_dir),    check_ports(),        check_stale_sockets(data_dir),
          check_cluster(data_dir), check_python()};
}

}  // namespace troupe::cli
