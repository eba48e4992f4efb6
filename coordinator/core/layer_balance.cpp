#include "coordinator/core/layer_balance.hpp"

#include <cassert>
#include <numeric>

namespace troupe::coordinator {
namespace {

constexpr double load_min = 1e-200;  // of all experts: nothing to plan for, and its inverse would not be a number

}  // namespace

layer_balance::layer_balance(std::vector<load_node> nodes) : nodes_(std::move(nodes)) {
  std::vector<std::uint32_t> zones;
  for (std::uint32_t n = 0; n < nodes_.size(); ++n) {
    assert(nodes_[n].slots > 0 && nodes_[n].speed > 0);
    first_slot_.push_back(static_cast<std::uint32_t>(node_of_.size()));
    node_of_.insert(node_of_.end(), nodes_[n].slots, n);
    slowness_.push_back(1 / nodes_[n].speed);
    speed_ += nodes_[n].speed;
    zones.push_back(nodes_[n].zone);
  }
  first_slot_.push_back(static_cast<std::uint32_t>(node_of_.size()));
  std::ranges::sort(zones);
  zones_ = static_cast<std::uint32_t>(std::unique(zones.begin(), zones.end()) - zones.begin());
  one_zone_ = zones_ <= 1 || zones_ == nodes_.size();
  time_.resize(nodes_.size());
  empty_.resize(nodes_.size());
  held_.resize(node_of_.size());
  slot_share_.resize(node_of_.size());
}

void layer_balance::begin(std::span<const double> loads, std::span<const std::uint32_t> present) {
  assert(present.empty() || present.size() == slots());
  experts_ = static_cast<std::uint32_t>(loads.size());
  total_ = std::accumulate(loads.begin(), loads.end(), 0.0);
  weight_.assign(loads.begin(), loads.end());
  weight_.push_back(0);
  if (total_ < load_min) total_ = 0;
  if (total_ > 0) {
    for (auto& w : weight_) w *= speed_ / total_;
  }
  share_ = weight_;
  count_.assign(weight_.size(), 0);
  holders_.resize(weight_.size() * nodes_.size());
  std::ranges::fill(held_, experts_);
  for (std::uint32_t slot = 0; slot < present.size(); ++slot) {
    const auto e = present[slot];
    if (e == no_expert || holds(node_of_[slot], e)) continue;
    assert(e < experts_);
    held_[slot] = e;
    holders_begin(e)[count_[e]++] = node_of_[slot];
  }
  for (std::uint32_t e = 0; e < experts_; ++e) share_[e] = weight_[e] / std::max(count_[e], 1U);
  refresh_times();
  moves_ = 0;
  changed_.assign(nodes_.size(), 0);
  count_before_ = count_;
  before_.resize(holders_.size());
  for (std::uint32_t e = 0; e < experts_; ++e) {
    std::copy_n(holders_begin(e), count_[e], before_.begin() + std::ptrdiff_t{e} * std::ssize(nodes_));
  }
}

void layer_balance::refresh_times() {
  for (std::uint32_t n = 0; n < nodes_.size(); ++n) {
    double sum = 0;
    empty_[n] = 0;
    for (auto slot = first_slot_[n]; slot < first_slot_[n + 1]; ++slot) {
      sum += slot_share_[slot] = share_[held_[slot]];
      empty_[n] += held_[slot] == experts_;
    }
    time_[n] = sum * slowness_[n];
  }
}

// With k replicas and z zones no zone may have more than k / z, rounded up.
bool layer_balance::keeps_spread(std::uint32_t n, std::uint32_t e, std::uint32_t from) const {
  std::uint32_t mates = 1;
  std::uint32_t replicas = 1;
  for (auto other : holders(e)) {
    if (other == from) continue;
    ++replicas;
    mates += nodes_[other].zone == nodes_[n].zone;
  }
  return mates <= (replicas + zones_ - 1) / zones_;
}

void layer_balance::put(std::uint32_t slot, std::uint32_t e) {
  const auto n = node_of_[slot];
  const auto moves = price(slot, e);
  moves_ += moves;
  changed_[n] += moves;
  time_[n] += (share_[e] - share_[held_[slot]]) * slowness_[n];
  empty_[n] += (e == experts_) - (held_[slot] == experts_);
  held_[slot] = e;
  slot_share_[slot] = share_[e];
}

void layer_balance::swap(std::uint32_t slot_a, std::uint32_t slot_b) {
  const auto a = held_[slot_a];
  const auto b = held_[slot_b];
  if (a != experts_) *std::find(holders_begin(a), holders_begin(a) + count_[a], node_of_[slot_a]) = node_of_[slot_b];
  if (b != experts_) *std::find(holders_begin(b), holders_begin(b) + count_[b], node_of_[slot_b]) = node_of_[slot_a];
  put(slot_a, b);
  put(slot_b, a);
}

// The expert's load is split anew over the replicas that it has now.
void layer_balance::set_share(std::uint32_t e) {
  const double share = weight_[e] / std::max(count_[e], 1U);
  for (auto n : holders(e)) {
    time_[n] += (share - share_[e]) * slowness_[n];
    slot_share_[slot_of(n, e)] = share;
  }
  share_[e] = share;
}

void layer_balance::place(std::uint32_t slot, std::uint32_t e) {
  put(slot, e);
  holders_begin(e)[count_[e]++] = node_of_[slot];
}

void layer_balance::replace(std::uint32_t slot, std::uint32_t e) {
  const auto old = held_[slot];
  const auto n = node_of_[slot];
  put(slot, e);
  if (old != experts_) {
    auto* last = holders_begin(old) + --count_[old];
    *std::find(holders_begin(old), last, n) = *last;
    set_share(old);
  }
  if (e != experts_) {
    holders_begin(e)[count_[e]++] = n;
    set_share(e);
  }
}

}  // namespace troupe::coordinator
