#include "bench/planner/placement.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "coordinator/core/load_planner.hpp"

namespace troupe::bench {
namespace {

using coordinator::no_expert;
using slots = std::span<const std::uint32_t>;

// Calls `see(node, its slots)`.
template <class See>
void each_node(slots placement, slots node_slots, See see) {
  std::size_t first = 0;
  for (std::size_t n = 0; n < node_slots.size(); ++n) {
    see(n, placement.subspan(first, node_slots[n]));
    first += node_slots[n];
  }
}

std::set<std::uint32_t> experts_of(slots held) {
  std::set<std::uint32_t> experts(held.begin(), held.end());
  experts.erase(no_expert);
  return experts;
}

// One more than the largest that is placed.
std::size_t expert_end(slots placement) {
  std::size_t end = 0;
  for (auto e : placement) end = std::max<std::size_t>(end, e == no_expert ? 0 : e + 1);
  return end;
}

std::uint32_t count_missing(const std::set<std::uint32_t>& wanted, const std::set<std::uint32_t>& there) {
  return static_cast<std::uint32_t>(std::ranges::count_if(wanted, [&](auto e) { return !there.contains(e); }));
}

// The column of each row so that the sum of costs is least: rows are added one at a time along shortest augmenting
// paths with potentials (Kuhn 1955, Jonker and Volgenant 1987). Row and column 0 stand for "none".
std::vector<std::size_t> assign(const std::vector<std::vector<double>>& cost) {
  const auto n = cost.size();
  constexpr double far = std::numeric_limits<double>::infinity();
  std::vector<double> row_potential(n + 1), column_potential(n + 1);
  std::vector<std::size_t> row_of(n + 1), came_from(n + 1);
  for (std::size_t row = 1; row <= n; ++row) {
    std::vector<double> distance(n + 1, far);
    std::vector<bool> done(n + 1);
    row_of[0] = row;
    std::size_t column = 0;
    while (row_of[column] != 0) {
      done[column] = true;
      const auto from = row_of[column];
      double step = far;
      std::size_t next = 0;
      for (std::size_t c = 1; c <= n; ++c) {
        if (done[c]) continue;
        const double reduced = cost[from - 1][c - 1] - row_potential[from] - column_potential[c];
        if (reduced < distance[c]) {
          distance[c] = reduced;
          came_from[c] = column;
        }
        if (distance[c] < step) {
          step = distance[c];
          next = c;
        }
      }
      for (std::size_t c = 0; c <= n; ++c) {
        if (done[c]) {
          row_potential[row_of[c]] += step;
          column_potential[c] -= step;
        } else {
          distance[c] -= step;
        }
      }
      column = next;
    }
    for (; column != 0; column = came_from[column]) row_of[column] = row_of[came_from[column]];
  }
  std::vector<std::size_t> column_of(n);
  for (std::size_t c = 1; c <= n; ++c) column_of[row_of[c] - 1] = c - 1;
  return column_of;
}

}  // namespace

std::vector<double> node_loads(std::span<const double> loads, slots placement, slots node_slots) {
  std::vector<double> replicas(loads.size());
  for (auto e : placement) {
    if (e != no_expert) ++replicas[e];
  }
  std::vector<double> load(node_slots.size());
  each_node(placement, node_slots, [&](std::size_t n, slots held) {
    for (auto e : held) {
      if (e != no_expert) load[n] += loads[e] / replicas[e];
    }
  });
  return load;
}

double imbalance(std::span<const double> loads, slots placement, slots node_slots) {
  const auto load = node_loads(loads, placement, node_slots);
  const double mean = std::accumulate(load.begin(), load.end(), 0.0) / static_cast<double>(load.size());
  return mean > 0 ? std::max(0.0, *std::ranges::max_element(load) / mean - 1) : 0;
}

std::uint32_t count_moves(slots before, slots after, slots node_slots) {
  const auto experts = std::max(expert_end(before), expert_end(after));
  std::vector<std::size_t> had_by(experts), counted_for(experts);  // the last node, from 1, that had it
  std::uint32_t moves = 0;
  std::size_t first = 0;
  each_node(after, node_slots, [&](std::size_t n, slots held) {
    for (auto e : before.subspan(first, held.size())) {
      if (e != no_expert) had_by[e] = n + 1;
    }
    first += held.size();
    for (auto e : held) {
      if (e == no_expert || had_by[e] == n + 1 || counted_for[e] == n + 1) continue;
      counted_for[e] = n + 1;
      ++moves;
    }
  });
  return moves;
}

std::uint32_t count_wasted(slots placement, slots node_slots) {
  std::vector<std::size_t> had_by(expert_end(placement));
  std::uint32_t wasted = 0;
  each_node(placement, node_slots, [&](std::size_t n, slots held) {
    for (auto e : held) {
      if (e == no_expert || had_by[e] == n + 1) {
        ++wasted;
      } else {
        had_by[e] = n + 1;
      }
    }
  });
  return wasted;
}

std::vector<std::uint32_t> rename_nodes(slots before, slots after, std::uint32_t slots_per_node) {
  const std::vector<std::uint32_t> node_slots(before.size() / slots_per_node, slots_per_node);
  std::vector<std::vector<double>> cost(node_slots.size());
  std::vector<std::set<std::uint32_t>> held_before;
  each_node(before, node_slots, [&](std::size_t, slots held) { held_before.push_back(experts_of(held)); });
  each_node(after, node_slots, [&](std::size_t n, slots held) {
    for (const auto& there : held_before) cost[n].push_back(count_missing(experts_of(held), there));
  });
  const auto name = assign(cost);
  std::vector<std::uint32_t> renamed(after.size());
  each_node(after, node_slots, [&](std::size_t n, slots held) {
    std::ranges::copy(held, renamed.begin() + static_cast<std::ptrdiff_t>(name[n] * slots_per_node));
  });
  return renamed;
}

}  // namespace troupe::bench
