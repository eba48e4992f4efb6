#include "bench/planner/eplb.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>

namespace troupe::bench {
namespace {

// The bin of each item: largest item first, into the emptiest bin with room; all bins take equally many.
std::vector<std::uint32_t> pack(std::span<const double> items, std::uint32_t bins) {
  const auto per_bin = items.size() / bins;
  std::vector<std::uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::stable_sort(order, [&](auto a, auto b) { return items[a] > items[b]; });
  std::vector<double> load(bins);
  std::vector<std::size_t> taken(bins);
  std::vector<std::uint32_t> bin_of(items.size());
  for (auto item : order) {
    auto best = bins;
    for (std::uint32_t bin = 0; bin < bins; ++bin) {
      if (taken[bin] < per_bin && (best == bins || load[bin] < load[best])) best = bin;
    }
    bin_of[item] = best;
    load[best] += items[item];
    ++taken[best];
  }
  return bin_of;
}

// The expert of each replica: one each, then always the expert whose replicas are fullest.
std::vector<std::uint32_t> replicate(std::span<const double> loads, std::size_t replicas) {
  std::vector<std::uint32_t> expert_of(loads.size());
  std::iota(expert_of.begin(), expert_of.end(), 0U);
  std::vector<double> count(loads.size(), 1);
  while (expert_of.size() < replicas) {
    std::uint32_t fullest = 0;
    for (std::uint32_t e = 1; e < loads.size(); ++e) {
      if (loads[e] / count[e] > loads[fullest] / count[fullest]) fullest = e;
    }
    expert_of.push_back(fullest);
    ++count[fullest];
  }
  return expert_of;
}

// Replicates and packs the given experts for the nodes of one machine; appends what its slots hold.
void plan_machine(std::span<const double> loads, std::span<const std::uint32_t> experts, std::size_t slots,
                  std::uint32_t nodes, std::vector<std::uint32_t>& expert_of_slot) {
  std::vector<double> own(experts.size());
  std::ranges::transform(experts, own.begin(), [&](auto e) { return loads[e]; });
  const auto replicas = replicate(own, slots);
  std::vector<double> count(experts.size());
  for (auto r : replicas) ++count[r];
  std::vector<double> share(replicas.size());
  std::ranges::transform(replicas, share.begin(), [&](auto r) { return own[r] / count[r]; });
  const auto node_of = pack(share, nodes);
  for (std::uint32_t n = 0; n < nodes; ++n) {
    for (std::size_t i = 0; i < replicas.size(); ++i) {
      if (node_of[i] == n) expert_of_slot.push_back(experts[replicas[i]]);
    }
  }
}

}  // namespace

result<void> check_eplb_shape(const eplb_shape& shape) {
  auto divides = [](std::uint32_t part, std::uint32_t whole) { return part > 0 && whole % part == 0; };
  if (!divides(shape.nodes, shape.slots)) {
    return fail(
        errc::invalid_request,
        fmt::format("EPLB needs slots ({}) that divide into the nodes ({}); choose others", shape.slots, shape.nodes));
  }
  if (!divides(shape.groups, shape.experts) || !divides(shape.machines, shape.groups) ||
      !divides(shape.machines, shape.nodes)) {
    return fail(errc::invalid_request,
                fmt::format("hierarchical EPLB needs groups ({}) that divide the experts ({}) and machines ({}) that "
                            "divide the groups and the nodes ({}); choose others",
                            shape.groups, shape.experts, shape.machines, shape.nodes));
  }
  if (shape.slots < shape.experts) {
    return fail(errc::invalid_request,
                fmt::format("{} slots are too few for {} experts; give more", shape.slots, shape.experts));
  }
  return {};
}

std::vector<std::uint32_t> eplb(std::span<const double> loads, const eplb_shape& shape) {
  assert(loads.size() == shape.experts && check_eplb_shape(shape));
  const auto group_size = shape.experts / shape.groups;
  std::vector<double> group_load(shape.groups);
  for (std::uint32_t e = 0; e < shape.experts; ++e) group_load[e / group_size] += loads[e];
  const auto machine_of_group = pack(group_load, shape.machines);
  std::vector<std::uint32_t> expert_of_slot;
  expert_of_slot.reserve(shape.slots);
  for (std::uint32_t machine = 0; machine < shape.machines; ++machine) {
    std::vector<std::uint32_t> experts;
    for (std::uint32_t e = 0; e < shape.experts; ++e) {
      if (machine_of_group[e / group_size] == machine) experts.push_back(e);
    }
    plan_machine(loads, experts, shape.slots / shape.machines, shape.nodes / shape.machines, expert_of_slot);
  }
  return expert_of_slot;
}

}  // namespace troupe::bench
