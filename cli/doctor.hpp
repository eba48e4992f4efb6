// Looks at this machine for what will make a cluster fail or crawl, and says how to fix it. Reads, changes nothing.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace troupe::cli {

enum class verdict { pass, warn, fail };

struct finding {
  std::string check;  // "shared memory"
  verdict outcome{verdict::pass};
  std::string detail;  // what was found
  std::string fix;     // what to do; empty for pass
};

// `data_dir`: the cluster that is meant; it need not exist.
[[nodiscard]] std::vector<finding> examine_machine(const std::filesystem::path& data_dir);

}  // namespace troupe::cli
