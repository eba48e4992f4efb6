#include "cli/simulation/present_nodes.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <utility>

namespace troupe::cli {

using coordinator::no_expert;

present_nodes::present_nodes(std::vector<std::uint32_t> node_slots, std::uint32_t zones)
    : all_slots_{std::move(node_slots)}, zones_{zones}, there_(all_slots_.size(), true) {}

void present_nodes::set(std::vector<bool> there) {
  assert(there.size() == all_slots_.size());
  if (there == there_) return;
  there_ = std::move(there);
  away_ = static_cast<std::uint32_t>(std::ranges::count(there_, false));
  assert(away_ < there_.size());
  ++changes_;
}

std::vector<std::uint32_t> present_nodes::slots() const {
  std::vector<std::uint32_t> slots;
  for (std::size_t n = 0; n < there_.size(); ++n) {
    if (there_[n]) slots.push_back(all_slots_[n]);
  }
  return slots;
}

std::vector<coordinator::load_node> present_nodes::load_nodes() const {
  std::vector<coordinator::load_node> nodes;
  for (std::size_t n = 0; n < there_.size(); ++n) {
    if (there_[n]) nodes.push_back({all_slots_[n], static_cast<std::uint32_t>(n * zones_ / there_.size()), 1});
  }
  return nodes;
}

placement present_nodes::gather(const placement& all) const {
  if (away_ == 0 || all.empty()) return all;
  placement gathered;
  auto slot = all.begin();
  for (std::size_t n = 0; n < there_.size(); ++n) {
    if (there_[n]) gathered.insert(gathered.end(), slot, slot + all_slots_[n]);
    slot += all_slots_[n];
  }
  return gathered;
}

placement present_nodes::scatter(const placement& there) const {
  if (away_ == 0) return there;
  placement all;
  auto slot = there.begin();
  for (std::size_t n = 0; n < there_.size(); ++n) {
    if (there_[n]) {
      all.insert(all.end(), slot, slot + all_slots_[n]);
      slot += all_slots_[n];
    } else {
      all.insert(all.end(), all_slots_[n], no_expert);
    }
  }
  return all;
}

}  // namespace troupe::cli
