// What a simulation found over time, as one SVG picture: a panel per figure, a line per planner. Pure.
#pragma once

#include <span>
#include <string>

#include "cli/simulation/load_simulation.hpp"

namespace troupe::cli {

// `minutes_per_step`: 0: the axis counts steps, not hours.
// @pre at least one run with at least one step
[[nodiscard]] std::string plot_svg(std::span<const simulated_run> runs, double minutes_per_step);

}  // namespace troupe::cli
