#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "common/http/metrics.hpp"

namespace troupe::http {
namespace {

// The fields of /proc/self/stat behind the command's closing bracket; [0] is the state (field 3 of proc(5)).
std::vector<std::string> stat_fields() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const auto bracket = line.rfind(')');
  if (bracket == std::string::npos) return {};
  std::istringstream rest(line.substr(bracket + 1));
  std::vector<std::string> fields;
  for (std::string field; rest >> field;) fields.push_back(field);
  return fields;
}

double number(const std::vector<std::string>& fields, std::size_t proc_field) {
  const auto index = proc_field - 3;
  return index < fields.size() ? std::strtod(fields[index].c_str(), nullptr) : 0;
}

double boot_time_seconds() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    if (double value = 0; word == "btime" && file >> value) return value;
  }
  return 0;
}

double open_descriptors() {
  auto* folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  double count = 0;
  while (const auto* entry = ::readdir(folder)) count += entry->d_name[0] != '.' ? 1 : 0;
  ::closedir(folder);
  return count - 1;  // the folder itself was open meanwhile
}

void append(std::vector<metric_family>& families, std::string name, std::string help, metric_kind kind, double value) {
  metric_family family{std::move(name), std::move(help), kind};
  family.add({}, value);
  families.push_back(std::move(family));
}

void collect(std::vector<metric_family>& families) {
  using enum metric_kind;
  const auto fields = stat_fields();
  const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  const auto page = static_cast<double>(::sysconf(_SC_PAGESIZE));
  append(families, "process_cpu_seconds_total", "User and system CPU time.", counter,
         (number(fields, 14) + number(fields, 15)) / ticks);
  append(families, "process_threads", "Threads of this process.", gauge, number(fields, 20));
  append(families, "process_start_time_seconds", "Start of the process since the epoch.", gauge,
         boot_time_seconds() + number(fields, 22) / ticks);
  append(families, "process_virtual_memory_bytes", "Virtual memory.", gauge, number(fields, 23));
  append(families, "process_resident_memory_bytes", "Resident memory.", gauge, number(fields, 24) * page);
  append(families, "process_open_fds", "Open file descriptors.", gauge, open_descriptors());
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    append(families, "process_max_fds", "Most file descriptors that may be open.", gauge,
           static_cast<double>(files.rlim_cur));
  }
}

}  // namespace

metrics_registry::source process_metrics() { return collect; }

metrics_registry::source build_metrics(std::string version, std::string commit, std::string backend) {
  label_list labels{{"version", std::move(version)}, {"commit", std::move(commit)}, {"backend", std::move(backend)}};
  return [labels](std::vector<metric_family>& families) {
    metric_family family{"moe_build_info", "What this program was built from.", metric_kind::gauge};
    family.add(labels, 1);
    families.push_back(std::move(family));
  };
}

metrics_registry::source handshake_metrics(std::function<std::uint64_t()> refusals) {
  return [refusals = std::move(refusals)](std::vector<metric_family>& families) {
    append(families, "moe_curve_handshake_failures_total", "Connections over TCP whose key was not let in.",
           metric_kind::counter, static_cast<double>(refusals()));
  };
}

}  // namespace troupe::http
