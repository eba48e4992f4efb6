#include "model/gating.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include <fmt/format.h>

namespace troupe::model {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr auto limit_score = group_score::max;  // of a group_limit

// The experts of one row with what decides about them. All spans and vectors are N long.
struct row_scores {
  std::vector<float> weight;  // what a chosen expert's weight is made of
  std::vector<float> choice;  // what the choice is made by; minus infinity: not selectable
};

bool is_allowed(expert_mask mask, std::size_t expert) { return mask.empty() || mask[expert] != 0; }

// Over the allowed experts alone, as torch does it in f32: subtract the largest, exp, divide by the sum.
void softmax(std::span<const float> logits, expert_mask mask, std::span<float> out) {
  float largest = minus_infinity;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    if (is_allowed(mask, e)) largest = std::max(largest, logits[e]);
  }
  float sum = 0;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    out[e] = is_allowed(mask, e) ? std::exp(logits[e] - largest) : 0.0F;
    sum += out[e];
  }
  for (float& value : out) value /= sum;
}

void sigmoid(std::span<const float> logits, std::span<float> out) {
  std::ranges::transform(logits, out.begin(), [](float x) { return 1.0F / (1.0F + std::exp(-x)); });
}

void score_row(const gating& gate, std::span<const float> correction_bias, std::span<const float> logits,
               expert_mask mask, row_scores& row) {
  switch (gate.score) {
    case score_function::softmax:
      softmax(logits, mask, row.weight);
      break;
    case score_function::sigmoid:
      sigmoid(logits, row.weight);
      break;
    case score_function::softmax_of_top_k:
      std::ranges::copy(logits, row.weight.begin());
      break;
  }
  for (std::size_t e = 0; e < logits.size(); ++e) {
    float correction = correction_bias.empty() ? 0.0F : correction_bias[e];
    row.choice[e] = is_allowed(mask, e) ? row.weight[e] + correction : minus_infinity;
  }
}

// The `count` best of `values`, best first; of equal values the one with the lower index.
void select_best(std::span<const float> values, std::size_t count, std::vector<std::uint32_t>& best) {
  best.clear();
  for (std::uint32_t i = 0; i < values.size(); ++i) {
    if (best.size() == count) {
      if (values[i] <= values[best.back()]) continue;
      best.pop_back();
    }
    auto place = best.size();
    while (place > 0 && values[best[place - 1]] < values[i]) --place;
    best.insert(best.begin() + static_cast<std::ptrdiff_t>(place), i);
  }
}

float score_group(group_score rule, std::span<const float> choice) {
  float first = minus_infinity;
  float second = minus_infinity;
  for (float value : choice) {
    if (value > first) {
      second = first;
      first = value;
    } else {
      second = std::max(second, value);
    }
  }
  // A group with one selectable expert counts with that one alone.
  bool take_both = rule == group_score::sum_of_two_largest && second > minus_infinity;
  return take_both ? first + second : first;
}

// Keeps the best groups and makes all other experts unselectable. A group is passed over when keeping it would leave
// too few selectable experts, whatever the groups after it: that can only happen under a mask.
class group_filter {
 public:
  group_filter(const gating& gate, expert_mask mask)
      : gate_(gate),
        is_masked_(!mask.empty()),
        size_(gate.num_experts / gate.num_groups),
        selectable_(gate.num_groups),
        scores_(gate.num_groups) {
    for (std::uint32_t g = 0; g < gate.num_groups; ++g) {
      for (std::uint32_t i = 0; i < size_; ++i) selectable_[g] += is_allowed(mask, g * size_ + i) ? 1 : 0;
    }
  }

  // The most experts that any choice of groups leaves selectable.
  [[nodiscard]] std::uint32_t reach() const { return largest_sum(selectable_, gate_.top_k_groups); }

  void apply(std::span<float> choice) {
    for (std::uint32_t g = 0; g < gate_.num_groups; ++g) {
      scores_[g] = score_group(gate_.groups, choice.subspan(g * size_, size_));
    }
    select_best(scores_, scores_.size(), order_);
    std::uint32_t kept = 0;
    std::uint32_t held = 0;
    for (std::size_t place = 0; place < order_.size(); ++place) {
      auto g = order_[place];
      bool keep = kept < gate_.top_k_groups &&
                  (!is_masked_ || held + selectable_[g] + best_rest(place + 1, kept + 1) >= gate_.top_k);
      if (keep) {
        ++kept;
        held += selectable_[g];
      } else {
        std::ranges::fill(choice.subspan(g * size_, size_), minus_infinity);
      }
    }
  }

 private:
  static std::uint32_t largest_sum(std::vector<std::uint32_t> counts, std::size_t terms) {
    std::ranges::sort(counts, std::ranges::greater{});
    counts.resize(std::min(terms, counts.size()));
    return std::accumulate(counts.begin(), counts.end(), 0U);
  }

  // What the groups behind `place` can still add when `kept` groups are taken.
  [[nodiscard]] std::uint32_t best_rest(std::size_t place, std::uint32_t kept) const {
    std::vector<std::uint32_t> rest;
    for (; place < order_.size(); ++place) rest.push_back(selectable_[order_[place]]);
    return largest_sum(std::move(rest), gate_.top_k_groups - kept);
  }

  const gating& gate_;
  bool is_masked_;
  std::uint32_t size_;
  std::vector<std::uint32_t> selectable_;  // by group
  std::vector<float> scores_;              // by group
  std::vector<std::uint32_t> order_;
};

// Gate probabilities of one row, among the allowed experts.
void find_probabilities(const gating& gate, std::span<const float> logits, expert_mask mask, const row_scores& scores,
                        std::span<float> probability) {
  if (gate.score == score_function::softmax_of_top_k) return softmax(logits, mask, probability);
  float sum = 0;
  for (std::size_t e = 0; e < logits.size(); ++e) sum += is_allowed(mask, e) ? scores.weight[e] : 0;
  for (std::size_t e = 0; e < logits.size(); ++e) probability[e] = scores.weight[e] / sum;
}

// Gives the row's last place to a cold expert that comes close enough. False: none does.
bool try_cold(const gating& gate, std::span<const float> logits, expert_mask mask, const row_scores& scores,
              const exploration& exploring, std::vector<std::uint32_t>& best) {
  if (exploring.cold[best.back()] != 0) return false;  // the row tries one already
  std::vector<float> probability(logits.size());
  find_probabilities(gate, logits, mask, scores, probability);
  std::optional<std::uint32_t> nearest;
  for (std::uint32_t e = 0; e < logits.size(); ++e) {
    bool is_candidate = exploring.cold[e] != 0 && scores.choice[e] > minus_infinity;
    if (!is_candidate || std::ranges::find(best, e) != best.end()) continue;
    if (!nearest || probability[e] > probability[*nearest]) nearest = e;
  }
  if (!nearest || probability[best.back()] - probability[*nearest] > exploring.bias) return false;
  best.back() = *nearest;
  return true;
}

// Weights of the chosen experts of one row, in place.
void finish_weights(const gating& gate, std::span<float> weights) {
  if (gate.score == score_function::softmax_of_top_k) softmax(weights, {}, weights);
  if (gate.renorm == renormalise::always) {
    float sum = std::accumulate(weights.begin(), weights.end(), 0.0F) + static_cast<float>(gate.renorm_epsilon);
    for (float& weight : weights) weight /= sum;
  }
  if (gate.scale != 1.0) {
    for (float& weight : weights) weight *= static_cast<float>(gate.scale);
  }
}

std::uint64_t capacity_of(const gating& gate, std::size_t rows) {
  if (gate.capacity.fixed) return *gate.capacity.fixed;
  auto places = static_cast<double>(rows * gate.top_k) * gate.capacity.factor / gate.num_experts;
  return static_cast<std::uint64_t>(std::nearbyint(std::min(places, 1e18)));  // half to even, as Python rounds
}

// All first choices take their places before any second choice does.
void drop_beyond_capacity(const gating& gate, std::size_t rows, routing& chosen) {
  if (gate.capacity.order == fill_order::none) return;
  std::vector<std::uint32_t> order(rows);
  std::iota(order.begin(), order.end(), 0U);
  if (gate.capacity.order == fill_order::batch_priority) {
    std::ranges::stable_sort(order, std::ranges::greater{},
                             [&](std::uint32_t row) { return chosen.weights[std::size_t{row} * gate.top_k]; });
  }
  auto capacity = capacity_of(gate, rows);
  std::vector<std::uint64_t> used(gate.num_experts);
  chosen.dropped.assign(chosen.expert_ids.size(), 0);
  for (std::uint32_t rank = 0; rank < gate.top_k; ++rank) {
    for (auto row : order) {
      auto place = std::size_t{row} * gate.top_k + rank;
      auto& taken = used[static_cast<std::size_t>(chosen.expert_ids[place])];
      chosen.dropped[place] = taken >= capacity ? 1 : 0;
      ++taken;
    }
  }
}

result<void> check_reach(const gating& gate, expert_mask mask, const std::optional<group_filter>& groups) {
  std::uint32_t reach = 0;
  if (groups) {
    reach = groups->reach();
  } else {
    for (std::uint32_t e = 0; e < gate.num_experts; ++e) reach += is_allowed(mask, e) ? 1 : 0;
  }
  if (reach >= gate.top_k) return {};
  return fail(
      errc::unavailable,
      fmt::format("{} of {} experts can be chosen{}, a token needs {}; wait until more of them "
                  "are served",
                  reach, gate.num_experts, groups ? fmt::format(" in {} groups", gate.top_k_groups) : "", gate.top_k));
}

// Why a layer cannot be gated under the limit.
result<void> check_limit(const moe_layer& layer, const group_limit& limit) {
  const auto& gate = layer.gate;
  const auto refuse = [&](errc code, const std::string& why) {
    return fail(
        code, fmt::format("route groups {}, kept {}: layer {} {}", limit.groups, limit.kept, to_string(layer.id), why));
  };
  if (gate.num_groups > 1) {
    return refuse(errc::conflict, fmt::format("has {} groups of its own and keeps {}, exactly; leave the option out",
                                              gate.num_groups, gate.top_k_groups));
  }
  if (gate.capacity.order != fill_order::none) {
    return refuse(errc::conflict, "has a capacity: rows that moved would push others out; leave the option out");
  }
  if (gate.num_experts % limit.groups != 0) {
    return refuse(
        errc::invalid_request,
        fmt::format("has {} experts, not to be cut into groups of equal size; choose a divisor", gate.num_experts));
  }
  if (limit.kept == 0 || limit.kept > limit.groups) {
    return refuse(errc::invalid_request, fmt::format("needs 1 to {} kept groups", limit.groups));
  }
  if (auto reach = gate.num_experts / limit.groups * limit.kept; reach < gate.top_k) {
    return refuse(errc::invalid_request, fmt::format("needs {} experts for a row, and {} are in the kept groups; keep "
                                                     "more of them, or make fewer",
                                                     gate.top_k, reach));
  }
  return {};
}

}  // namespace

result<void> check_exploration(const gating& gate) {
  if (gate.capacity.order == fill_order::none) return {};
  return fail(errc::conflict,
              "exploration: the gate has a capacity, and rows that moved would push others out; leave the option out");
}

result<void> check_mask(const gating& gate, expert_mask mask) {
  std::optional<group_filter> groups;
  if (gate.groups != group_score::none) groups.emplace(gate, mask);
  return check_reach(gate, mask, groups);
}

masked_load look_behind_mask(const gating& gate, std::span<const float> correction_bias, std::span<const float> logits,
                             expert_mask mask) {
  masked_load load{std::vector<double>(gate.num_experts), std::vector<std::uint64_t>(gate.num_experts)};
  std::vector<float> probability(gate.num_experts);
  for (std::size_t row = 0; row < logits.size() / gate.num_experts; ++row) {
    auto row_logits = logits.subspan(row * gate.num_experts, gate.num_experts);
    if (gate.score == score_function::sigmoid) {
      sigmoid(row_logits, probability);
      auto sum = std::accumulate(probability.begin(), probability.end(), 0.0F);
      for (auto& value : probability) value /= sum;
    } else {
      softmax(row_logits, {}, probability);
    }
    for (std::size_t e = 0; e < probability.size(); ++e) load.mass[e] += mask[e] == 0 ? double{probability[e]} : 0.0;
  }
  auto whole = choose_experts(gate, correction_bias, logits);
  if (!whole) return load;
  for (auto id : whole->expert_ids) {
    auto e = static_cast<std::size_t>(id);
    load.rows[e] += mask[e] == 0 ? 1 : 0;
  }
  return load;
}

result<std::vector<gating>> limit_groups(const description& model, const group_limit& limit) {
  std::vector<gating> gates;
  for (const auto& layer : model.layers) {
    gates.push_back(layer.gate);
    if (limit.groups == 0) continue;
    if (auto fits = check_limit(layer, limit); !fits) return fail(fits.error());
    gates.back().groups = limit_score;
    gates.back().num_groups = limit.groups;
    gates.back().top_k_groups = limit.kept;
  }
  return gates;
}

result<routing> choose_limited(const gating& whole, const gating& limited, std::span<const float> correction_bias,
                               std::span<const float> logits, expert_mask mask) {
  auto exact = choose_experts(whole, correction_bias, logits, mask);
  if (!exact || !check_mask(limited, mask)) return exact;
  auto chosen = choose_experts(limited, correction_bias, logits, mask);
  if (!chosen) return chosen;
  const std::size_t k = whole.top_k;
  chosen->limited.resize(chosen->expert_ids.size() / k);
  for (std::size_t row = 0; row < chosen->limited.size(); ++row) {
    const auto* ids = chosen->expert_ids.data() + row * k;
    chosen->limited[row] = std::equal(ids, ids + k, exact->expert_ids.data() + row * k) ? 0 : 1;
  }
  return chosen;
}

result<routing> choose_experts(const gating& gate, std::span<const float> correction_bias,
                               std::span<const float> logits, expert_mask mask, const exploration& exploring) {
  assert(exploring.cold.empty() || (exploring.cold.size() == gate.num_experts && exploring.bias > 0));
  assert(logits.size() % gate.num_experts == 0 && (mask.empty() || mask.size() == gate.num_experts));
  assert(correction_bias.empty() || correction_bias.size() == gate.num_experts);
  std::optional<group_filter> groups;
  if (gate.groups != group_score::none) groups.emplace(gate, mask);
  if (auto enough = check_reach(gate, mask, groups); !enough) return fail(enough.error());

  auto rows = logits.size() / gate.num_experts;
  routing chosen;
  chosen.top_k = gate.top_k;
  chosen.expert_ids.resize(rows * gate.top_k);
  chosen.weights.resize(rows * gate.top_k);
  if (!exploring.cold.empty()) chosen.explored.resize(rows);
  row_scores scores{std::vector<float>(gate.num_experts), std::vector<float>(gate.num_experts)};
  std::vector<std::uint32_t> best;
  for (std::size_t row = 0; row < rows; ++row) {
    auto row_logits = logits.subspan(row * gate.num_experts, gate.num_experts);
    if (!std::ranges::all_of(row_logits, [](float x) { return std::isfinite(x); })) {
      return fail(errc::invalid_request, fmt::format("row {}: the router's logits are not finite; the row holds NaN, "
                                                     "infinite or huge values",
                                                     row));
    }
    score_row(gate, correction_bias, row_logits, mask, scores);
    if (groups) groups->apply(scores.choice);
    select_best(scores.choice, gate.top_k, best);
    if (!exploring.cold.empty() && try_cold(gate, row_logits, mask, scores, exploring, best)) chosen.explored[row] = 1;
    auto weights = std::span{chosen.weights}.subspan(row * gate.top_k, gate.top_k);
    for (std::uint32_t rank = 0; rank < gate.top_k; ++rank) {
      chosen.expert_ids[row * gate.top_k + rank] = static_cast<std::int32_t>(best[rank]);
      weights[rank] = scores.weight[best[rank]];
    }
    finish_weights(gate, weights);
  }
  drop_beyond_capacity(gate, rows, chosen);
  return chosen;
}

std::vector<float> reference_logits(const gating& gate, const gate_parameters& parameters,
                                    std::span<const float> hidden, std::uint32_t hidden_size) {
  auto rows = hidden.size() / hidden_size;
  std::vector<float> logits(rows * gate.num_experts);
  for (std::size_t row = 0; row < rows; ++row) {
    auto x = hidden.subspan(row * hidden_size, hidden_size);
    for (std::size_t e = 0; e < gate.num_experts; ++e) {
      auto w = std::span{parameters.weight}.subspan(e * hidden_size, hidden_size);
      double sum = parameters.bias.empty() ? 0.0 : parameters.bias[e];
      for (std::size_t i = 0; i < hidden_size; ++i) sum += double{x[i]} * double{w[i]};
      logits[row * gate.num_experts + e] = static_cast<float>(sum);
    }
  }
  return logits;
}

}  // namespace troupe::model
