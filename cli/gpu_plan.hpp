// How many GPUs the experts of a model need, one for each expert node. Pure.
#pragma once

#include <cstdint>
#include <optional>

#include "common/error.hpp"

namespace troupe::cli {

struct gpu_demand {
  std::uint64_t experts{};
  std::uint32_t replication{1};
  std::uint64_t slot_bytes{};     // of one expert on the GPU
  std::uint64_t scratch_bytes{};  // beside the slots
  std::uint64_t device_bytes{};   // of one GPU
};

struct gpu_plan {
  std::uint64_t slots_fit{};     // on one GPU; not more than there are experts, since no node holds one twice
  std::uint32_t gpus_needed{};   // for all replicas
  std::uint32_t gpus{};          // as asked for; else as many as are needed
  std::uint64_t slots_needed{};  // on each of them
};

// `gpus`: how many there are; none: as many as it takes. out_of_memory with both numbers when not one expert fits, or
// not all replicas on so many. @pre experts, replication, slot_bytes and *gpus are positive; replication <= *gpus
[[nodiscard]] result<gpu_plan> plan_gpus(const gpu_demand& demand, std::optional<std::uint32_t> gpus);

}  // namespace troupe::cli
