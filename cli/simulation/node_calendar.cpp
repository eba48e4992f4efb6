#include "cli/simulation/node_calendar.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace troupe::cli {

node_calendar::node_calendar(std::span<const std::uint32_t> node_slots, const drawing& how) {
  if (how.steps < 2) return;
  std::mt19937_64 random{how.seed};
  std::vector<node_absence> drawn(how.losses);
  for (auto& absence : drawn) {
    absence.node = static_cast<std::uint32_t>(random() % node_slots.size());
    absence.from = 1 + static_cast<std::uint32_t>(random() % (how.steps - 1));
    const double uniform = static_cast<double>((random() >> 11) + 1) * 0x1.0p-53;
    const double length = std::max(1.0, std::ceil(-std::log(uniform) * how.steps_away_mean));
    absence.until = absence.from + static_cast<std::uint32_t>(std::min<double>(length, how.steps));
  }
  std::ranges::stable_sort(drawn, {}, &node_absence::from);
  const auto all = std::accumulate(node_slots.begin(), node_slots.end(), std::uint64_t{0});
  for (const auto& absence : drawn) {
    std::uint64_t away = node_slots[absence.node];
    bool is_away = false;
    for (const auto& other : absences_) {
      if (other.until < absence.from) continue;
      away += node_slots[other.node];
      is_away = is_away || other.node == absence.node;
    }
    if (!is_away && all - away >= how.slots_min && away < all) absences_.push_back(absence);
  }
}

std::vector<bool> node_calendar::present(std::uint32_t nodes, std::uint32_t step) const {
  std::vector<bool> there(nodes, true);
  for (const auto& absence : absences_) {
    if (absence.from <= step && step < absence.until) there[absence.node] = false;
  }
  return there;
}

}  // namespace troupe::cli
