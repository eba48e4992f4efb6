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
  held_.resize(node_of_.size());
  held_share_.resize(node_of_.size());
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
  had_.assign(weight_.size() * nodes_.size(), 0);
  moves_ = 0;
  changed_.assign(nodes_.size(), 0);
  fill_nodes(present);
}

void layer_balance::fill_nodes(std::span<const std::uint32_t> present) {
  std::ranges::fill(held_, experts_);
  for (std::uint32_t slot = 0; slot < present.size(); ++slot) {
    const auto e = present[slot];
    const auto n = node_of_[slot];
    if (e == no_expert || holds(n, e)) continue;
    assert(e < experts_);
    held_[slot] = e;
    had_[at(n, e)] = now | before;
    holders_begin(e)[count_[e]++] = n;
  }
  was_served_.assign(experts_, false);
  replicated_.clear();
  for (std::uint32_t e = 0; e < experts_; ++e) {
    was_served_[e] = count_[e] > 0;
    if (count_[e] < 2) continue;
    share_[e] = weight_[e] / count_[e];
    replicated_.push_back(e);
  }
  auto fuller = [&](auto a, auto b) { return share_[a] > share_[b] || (share_[a] == share_[b] && a < b); };
  for (std::uint32_t n = 0; n < nodes_.size(); ++n) {
    had_[at(n, experts_)] = before;  // an empty slot is no move
    std::sort(held_.begin() + first_slot_[n], held_.begin() + first_slot_[n + 1], fuller);
    double sum = 0;
    for (auto slot = first_slot_[n]; slot < first_slot_[n + 1]; ++slot) sum += held_share_[slot] = share_[held_[slot]];
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

std::uint32_t layer_balance::find(std::uint32_t n, std::uint32_t e) const {
  const auto held = held_by(n);
  return static_cast<std::uint32_t>(std::ranges::find(held, e) - held.begin());
}

// The slot at `position` is e's now and goes where its share belongs; the others are in order.
void layer_balance::set_held(std::uint32_t n, std::uint32_t position, std::uint32_t e) {
  auto* held = held_.data() + first_slot_[n];
  auto* shares = held_share_.data() + first_slot_[n];
  const double share = share_[e];
  auto i = position;
  auto shift_from = [&](std::uint32_t other) {
    held[i] = held[other];
    shares[i] = shares[other];
    i = other;
  };
  // Empty slots are behind experts without load.
  while (i > 0 && (shares[i - 1] < share || (held[i - 1] == experts_ && e != experts_))) shift_from(i - 1);
  while (i + 1 < nodes_[n].slots && (shares[i + 1] > share || (e == experts_ && held[i + 1] != experts_)))
    shift_from(i + 1);
  held[i] = e;
  shares[i] = share;
}

void layer_balance::put(std::uint32_t n, std::uint32_t y, std::uint32_t x) {
  const auto moves = price(n, y, x);
  moves_ += moves;
  changed_[n] += moves;
  time_[n] += (share_[x] - share_[y]) * slowness_[n];
  set_held(n, find(n, y), x);
  if (y != experts_) had_[at(n, y)] &= ~now;
  if (x != experts_) had_[at(n, x)] |= now;
}

void layer_balance::swap(std::uint32_t a, std::uint32_t x, std::uint32_t b, std::uint32_t y) {
  if (x != experts_) *std::find(holders_begin(x), holders_begin(x) + count_[x], a) = b;
  if (y != experts_) *std::find(holders_begin(y), holders_begin(y) + count_[y], b) = a;
  put(a, x, y);
  put(b, y, x);
}

// The expert's load is split anew over the replicas that it has now.
void layer_balance::set_share(std::uint32_t e) {
  const double share = weight_[e] / std::max(count_[e], 1U);
  const double change = share - share_[e];
  share_[e] = share;
  for (auto n : holders(e)) {
    time_[n] += change * slowness_[n];
    set_held(n, find(n, e), e);
  }
}

void layer_balance::place(std::uint32_t n, std::uint32_t e) {
  put(n, experts_, e);
  holders_begin(e)[count_[e]++] = n;
  if (count_[e] == 2) replicated_.push_back(e);
}

void layer_balance::replace(std::uint32_t n, std::uint32_t y, std::uint32_t x) {
  put(n, y, x);
  if (y != experts_) {
    auto* last = holders_begin(y) + --count_[y];
    *std::find(holders_begin(y), last, n) = *last;
    if (count_[y] == 1) replicated_.erase(std::ranges::find(replicated_, y));
    set_share(y);
  }
  if (x != experts_) {
    holders_begin(x)[count_[x]++] = n;
    if (count_[x] == 2) replicated_.push_back(x);
    set_share(x);
  }
}

std::vector<std::uint32_t> layer_balance::slots_after(std::span<const std::uint32_t> present) {
  std::vector<std::uint32_t> after(slots(), no_expert);
  for (std::uint32_t slot = 0; slot < present.size(); ++slot) {
    const auto e = present[slot];
    const auto n = node_of_[slot];
    if (e == no_expert || !holds(n, e) || (had_[at(n, e)] & placed) != 0) continue;
    had_[at(n, e)] |= placed;
    after[slot] = e;
  }
  for (std::uint32_t n = 0; n < nodes_.size(); ++n) {
    auto slot = first_slot_[n];
    for (auto e : held_by(n)) {
      if (e == experts_ || (had_[at(n, e)] & placed) != 0) continue;
      while (after[slot] != no_expert) ++slot;
      after[slot] = e;
    }
  }
  return after;
}

}  // namespace troupe::coordinator
