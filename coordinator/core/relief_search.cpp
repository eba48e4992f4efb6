#include "coordinator/core/relief_search.hpp"

namespace troupe::coordinator {

relief_search::relief_search(const layer_balance& layer, double target)
    : layer_{layer}, target_{1 + target}, excess_(layer.nodes()), changes_(layer.nodes()) {
  for (std::uint32_t e = 1; e < layer.experts(); ++e) {
    if (layer.weight(e) < layer.weight(lightest_)) lightest_ = e;
  }
  for (std::uint32_t n = 0; n < layer.nodes(); ++n) slowest_ = std::max(slowest_, layer.slowness(n));
}

relief_search::step relief_search::run(std::int64_t moves_left) {
  moves_left_ = moves_left;
  hot_ = layer_.fullest();
  best_ = {};
  for (std::uint32_t n = 0; n < layer_.nodes(); ++n) excess_[n] = excess(layer_.time(n));
  const auto emptiest = layer_.emptiest();
  try_swaps(emptiest);
  weigh_replicas();
  for (std::uint32_t c = 0; c < layer_.nodes(); ++c) {
    if (c != emptiest) try_swaps(c);
  }
  if (room_for_others() > 0) weigh_giving_up(target_);
  if (!best_.is_found()) weigh_giving_up(0);
  return best_;
}

void relief_search::try_swaps(std::uint32_t c) {
  const double hot_time = layer_.time(hot_), cold_time = layer_.time(c);
  if (c == hot_ || cold_time >= target_) return;
  const double most = std::min(hot_time - target_, target_ - cold_time);
  const double gap = hot_time - cold_time;
  const double price_min = layer_.is_changed(hot_) || layer_.is_changed(c) ? price_floor_ : layer_.has_empty(c) ? 1 : 2;
  // No step with this node can be better than that.
  if (most + alike_ * gap * gap / 2 <= price_min * best_.worth) return;
  const double hot_slow = layer_.slowness(hot_), cold_slow = layer_.slowness(c);
  const double before = excess_[hot_] + excess_[c];
  double least = price_min * best_.worth;
  auto better = [&] {
    const double allowed = target_ + before - least;  // a longer time would be more excess than that
    return load_range{(hot_time - allowed) / hot_slow, (allowed - cold_time) / cold_slow};
  };
  auto wanted = better();
  for_pairs(layer_.shares_on(hot_), layer_.shares_on(c), wanted, [&](auto x, auto y, double moved) {
    const double gain = before - excess(hot_time - moved * hot_slow) - excess(cold_time + moved * cold_slow);
    if (gain <= least || !offer_swap(c, layer_.held_by(hot_)[x], layer_.held_by(c)[y], gain)) return;
    least = price_min * best_.worth;
    wanted = better();
  });
}

bool relief_search::offer_swap(std::uint32_t c, std::uint32_t x, std::uint32_t y, double gain) {
  const auto price = layer_.price(hot_, x, y) + layer_.price(c, y, x);
  const double worth = gain / std::max(static_cast<double>(price), price_floor_);
  if (worth <= best_.worth || price > moves_left_ || !layer_.may_swap(hot_, x, c, y)) return false;
  best_ = {worth, hot_, x, y, c};
  return true;
}

// One more replica of expert x in the place of y, which has others. Here x is on the fullest node, which is relieved by
// its new replica elsewhere.
void relief_search::weigh_replicas() {
  added_.clear();
  spare_.clear();
  collect(hot_);
  for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
    if (layer_.has_empty(n) && n != hot_) try_replicas(n, layer_.experts(), 0);
  }
  for (auto y : layer_.replicated()) try_dropping(y);
}

// What the fullest node could take for a spare replica and still get below the target.
double relief_search::room_for_others() const {
  double most = 0;
  for (const auto& y : spare_) most = std::max(most, layer_.share(y.expert));
  return target_ - layer_.time(hot_) + most * layer_.slowness(hot_);
}

// Here y is on the fullest node, and x is small or on another node above `time_min`.
void relief_search::weigh_giving_up(double time_min) {
  if (spare_.empty()) return;
  added_ = {{lightest_, gain_of_adding(lightest_)}};
  for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
    if (n != hot_ && layer_.time(n) > time_min) collect(n);
  }
  for (const auto& y : spare_) try_replicas(hot_, y.expert, y.gain);
}

// On the nodes that hold x already.
double relief_search::gain_of_adding(std::uint32_t x) const {
  double gain = 0;
  for (auto m : layer_.holders(x)) gain += relief(m, share_with_more(x) - layer_.share(x));
  return gain;
}

void relief_search::collect(std::uint32_t n) {
  // The holders of x get rid of share_with_more together, which is less than its share: too little for the best step.
  auto is_too_little = [&](double load) { return load * slowest_ + alike_ <= best_.worth; };
  for (auto x : layer_.held_by(n)) {
    if (x == layer_.experts() || is_too_little(layer_.share(x))) return;
    if (is_too_little(share_with_more(x))) continue;
    added_.push_back({x, gain_of_adding(x)});
    if (added_.back().gain > added_.front().gain) std::swap(added_.back(), added_.front());
  }
}

// Its other nodes have more to do then.
void relief_search::try_dropping(std::uint32_t y) {
  const double change = layer_.weight(y) / (layer_.count(y) - 1) - layer_.share(y);
  const auto holders = layer_.holders(y);
  double all = 0;
  for (std::size_t i = 0; i < holders.size(); ++i) all += changes_[i] = relief(holders[i], change);
  for (std::size_t i = 0; i < holders.size(); ++i) {
    const double elsewhere = all - changes_[i];
    if (holders[i] == hot_) {
      spare_.push_back({y, elsewhere});
    } else {
      try_replicas(holders[i], y, elsewhere);
    }
  }
}

// `elsewhere`: what dropping y gains on other nodes, usually less than nothing.
void relief_search::try_replicas(std::uint32_t n, std::uint32_t y, double elsewhere) {
  const double price_min = layer_.is_changed(n) ? price_floor_ : 1;
  const double most = elsewhere + relief(n, -layer_.share(y));
  if (added_.empty() || most + added_.front().gain <= price_min * best_.worth) return;
  for (const auto& [x, gain_of_x] : added_) {
    if (most + gain_of_x <= price_min * best_.worth) continue;
    const double gain = elsewhere + gain_of_x + relief(n, share_with_more(x) - layer_.share(y));
    if (gain <= price_min * best_.worth || !layer_.may_hold(n, x)) continue;
    const auto price = layer_.price(n, y, x);
    const double worth = gain / std::max(static_cast<double>(price), price_floor_);
    if (worth > best_.worth && price <= moves_left_) best_ = {worth, n, y, x, no_expert};
  }
}

}  // namespace troupe::coordinator
