#include "cli/gpu_plan.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "cli/render.hpp"

namespace troupe::cli {
namespace {

std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

std::string text_of(std::uint64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

}  // namespace

result<gpu_plan> plan_gpus(const gpu_demand& demand, std::optional<std::uint32_t> gpus) {
  const auto usable = demand.device_bytes - std::min(demand.device_bytes, demand.scratch_bytes);
  gpu_plan plan;
  plan.slots_fit = std::min(usable / demand.slot_bytes, demand.experts);
  if (plan.slots_fit == 0) {
    return fail(
        errc::out_of_memory,
        fmt::format("one expert takes {} and the work on it {}, and the GPU has {}; use a GPU with more memory, "
                    "or --dtype bf16",
                    text_of(demand.slot_bytes), text_of(demand.scratch_bytes), text_of(demand.device_bytes)));
  }
  const auto replicas = demand.experts * demand.replication;
  plan.gpus_needed =
      static_cast<std::uint32_t>(std::max<std::uint64_t>(ceil_div(replicas, plan.slots_fit), demand.replication));
  plan.gpus = gpus.value_or(plan.gpus_needed);
  plan.slots_needed = ceil_div(replicas, plan.gpus);
  if (plan.slots_needed > plan.slots_fit) {
    return fail(
        errc::out_of_memory,
        fmt::format("{} replicas on {} GPUs need {} on each ({} slots, and {} beside them), and one has {}; use {} "
                    "GPUs or more, a smaller --replication, or --dtype bf16",
                    replicas, plan.gpus, text_of(plan.slots_needed * demand.slot_bytes + demand.scratch_bytes),
                    plan.slots_needed, text_of(demand.scratch_bytes), text_of(demand.device_bytes), plan.gpus_needed));
  }
  return plan;
}

}  // namespace troupe::cli
