// Is a cluster ready to serve, and if not, what is missing? Asks the coordinator and the routers. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/context.hpp"

namespace troupe::cli {

class admin_client;

struct readiness {
  bool ready{};
  std::uint64_t replicas_loaded{};
  std::string missing;  // for a person: "waiting for the coordinator"
};

class readiness_probe {
 public:
  // `complete`: how many replicas a fully loaded cluster has. With `rejoining`, some replicas may be missing as long as
  // no expert is out of reach: they are rebuilt while the cluster serves.
  readiness_probe(const std::filesystem::path& data_dir, const cluster_context& context, std::uint64_t complete,
                  bool rejoining);
  ~readiness_probe();
  [[nodiscard]] readiness look();

 private:
  [[nodiscard]] readiness look_at_coordinator();
  [[nodiscard]] readiness look_at_routers(readiness found) const;

  const std::filesystem::path& data_dir_;
  const cluster_context& context_;
  std::uint64_t complete_;
  bool rejoining_;
  std::unique_ptr<admin_client> admin_;
};

}  // namespace troupe::cli
