// Loads of experts, step by step, wherever they come from: a file that was read, or synthetic loads that are made as
// they are asked for. Plain values; one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace troupe::cli {

using step_loads = std::vector<std::vector<double>>;  // [layer][expert]; any unit, 0 or more
using step_visitor = std::function<void(std::uint32_t step, const step_loads& loads)>;

struct load_source {
  std::vector<std::uint32_t> layers;   // numbers, ascending
  std::vector<std::uint32_t> experts;  // of each of these layers
  std::uint32_t steps{};
  std::function<void(const step_visitor& use)> each_step;  // each time from the beginning, always the same
};

}  // namespace troupe::cli
