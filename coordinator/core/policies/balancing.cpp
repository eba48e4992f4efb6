// Migration and replication of hot experts: by the load planner, a step at a time, while a layer's nodes are uneven.
//
//   drift   how far a layer's newest rows are from those of the whole last minute. When the kind of text changes, the
//           minute speaks of what was; from a threshold on the newest rows alone decide
#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/load_planner.hpp"
#include "coordinator/core/policies/policy.hpp"

namespace troupe::coordinator {
namespace {

struct loads_of_layer {
  std::vector<double> rows;  // by expert, of those that are served
  double total{};
  double drift{};
  bool is_recent{};  // the newest rows alone
};

loads_of_layer look_at(const layer_load& layer, const policy_settings& settings) {
  double minute = 0;
  double recent = 0;
  for (const auto& expert : layer.experts) {
    minute += static_cast<double>(expert.rows);
    recent += static_cast<double>(expert.recent_rows);
  }
  loads_of_layer loads{.rows = {}, .total = minute, .drift = 0, .is_recent = false};
  if (recent >= limits::policy_rows_min) {
    for (const auto& expert : layer.experts) {
      auto difference = static_cast<double>(expert.rows) / minute - static_cast<double>(expert.recent_rows) / recent;
      loads.drift += std::abs(difference) / 2;
    }
    loads.is_recent = loads.drift >= settings.drift;
  }
  if (loads.is_recent) loads.total = recent;
  for (const auto& expert : layer.experts) {
    auto rows = loads.is_recent ? expert.recent_rows : expert.rows;
    loads.rows.push_back(static_cast<double>(expert.nodes.empty() ? 0 : rows));
  }
  return loads;
}

// One step of the planner's plan for one layer, in policy_input's numbers. A node offers what it holds of the layer,
// and one free slot.
struct step {
  load_move move;
  // Its target is full, and first a spare replica of move.instead_of has to go, or the two change places.
  enum class kind : std::uint8_t { moves, shrinks, exchanges } how{};
  double before{}, after{};
  double drift{};  // when the newest rows alone decided
};

// How the move can be made by itself; nullopt: it cannot.
std::optional<step::kind> way_of(const policy_input& input, const layer_load& layer, const load_move& move,
                                 const std::vector<load_move>& all) {
  if (layer.experts[move.expert].is_fixed) return std::nullopt;
  if (input.nodes[move.to].slots_free > 0) return step::kind::moves;
  if (!move.instead_of || layer.experts[*move.instead_of].is_fixed) return std::nullopt;
  if (layer.experts[*move.instead_of].nodes.size() > 1) return step::kind::shrinks;
  bool is_exchange = std::ranges::any_of(all, [&](const load_move& other) {
    return other.expert == *move.instead_of && other.from == move.to && move.from == other.to;
  });
  return is_exchange ? std::optional(step::kind::exchanges) : std::nullopt;
}

std::optional<step> one_step(const policy_input& input, const layer_load& layer, const loads_of_layer& loads,
                             const policy_settings& settings) {
  // The planner finds a place for every expert that it sees: it must not see those that are not there.
  std::vector<std::uint32_t> placed;
  for (const auto& expert : layer.experts) {
    if (!expert.nodes.empty()) placed.push_back(expert.index);
  }
  std::vector<load_node> nodes;
  std::vector<std::uint32_t> names;  // of them, in the input
  std::vector<std::uint32_t> present;
  for (std::uint32_t n = 0; n < input.nodes.size(); ++n) {
    auto first = present.size();
    for (std::uint32_t p = 0; p < placed.size(); ++p) {
      const auto& holders = layer.experts[placed[p]].nodes;
      if (std::ranges::find(holders, n) != holders.end()) present.push_back(p);
    }
    if (input.nodes[n].slots_free > 0) present.push_back(no_expert);
    auto slots = static_cast<std::uint32_t>(present.size() - first);
    if (slots == 0) continue;  // nothing of this layer can be put there
    nodes.push_back({slots, n, 1});
    names.push_back(n);
  }
  if (nodes.size() < 2 || placed.empty()) return std::nullopt;
  std::vector<double> rows;
  for (auto e : placed) rows.push_back(loads.rows[e]);
  load_planner planner(std::move(nodes), {.moves_max = 2, .imbalance_target = settings.balance_imbalance});
  auto plan = planner.plan(rows, present);
  for (auto& move : plan.moves) {
    move.expert = placed[move.expert];
    if (move.instead_of) move.instead_of = placed[*move.instead_of];
    move.to = names[move.to];
    if (move.from) move.from = names[*move.from];
  }
  // Of its moves the one with most of the load: the others may not be needed any more once that is done.
  auto share = [&](const load_move& move) {
    return loads.rows[move.expert] /
           static_cast<double>(std::max<std::size_t>(layer.experts[move.expert].nodes.size(), 1));
  };
  std::optional<step> best;
  for (const auto& move : plan.moves) {
    auto how = way_of(input, layer, move, plan.moves);
    if (!how || (best && share(move) <= share(best->move))) continue;
    best = step{move, *how, plan.imbalance_before, plan.imbalance_after, loads.is_recent ? loads.drift : 0};
  }
  return best;
}

// Its experts where they are, but for the two that change places.
apply_placement exchange_of(const policy_input& input, const std::vector<expert_load>& experts, const layer_id& layer,
                            const load_move& move) {
  apply_placement exchange;
  for (auto [e, from, to] : {std::tuple{move.expert, *move.from, move.to}, {*move.instead_of, move.to, *move.from}}) {
    exchange.experts.push_back({expert_id{layer, e}, {}});
    auto& placed = exchange.experts.back();
    for (auto n : experts[e].nodes) placed.nodes.push_back(input.nodes[n == from ? to : n].name);
  }
  return exchange;
}

}  // namespace

std::vector<proposal> propose_moves(const policy_input& input, const policy_settings& settings) {
  std::vector<std::tuple<double, expert_id, step>> steps;
  for (const auto& layer : input.layers) {
    auto loads = look_at(layer, settings);
    if (layer.is_changing || loads.total < limits::policy_rows_min) continue;
    auto next = one_step(input, layer, loads, settings);
    // A move costs a copy: not for what noise could give as well.
    if (!next || next->before - next->after < limits::balance_gain_min) continue;
    steps.emplace_back(next->before - next->after, expert_id{layer.id, next->move.expert}, *next);
  }
  std::ranges::stable_sort(steps, std::ranges::greater{}, [](const auto& item) { return std::get<0>(item); });
  std::vector<proposal> proposals;
  for (const auto& [gain, expert, next] : steps) {
    auto why = fmt::format("the fullest node has {:.0f} % more of the layer's rows than the mean; {:.0f} % afterwards",
                           100 * next.before, 100 * next.after);
    if (next.drift > 0)
      why += fmt::format(" (of its newest rows: {:.0f} % of them are not where the minute's were)", 100 * next.drift);
    const auto& experts = std::ranges::find(input.layers, expert.layer, &layer_load::id)->experts;
    auto replicas = [&](std::uint32_t e) { return static_cast<std::uint32_t>(experts[e].nodes.size()); };
    if (next.how == step::kind::exchanges) {
      proposals.push_back({exchange_of(input, experts, expert.layer, next.move), "balancing", why});
    } else if (next.how == step::kind::shrinks) {
      auto spare = *next.move.instead_of;
      why += fmt::format(", once expert {} has its place", to_string(expert));
      proposals.push_back({replicate_expert{{expert.layer, spare}, replicas(spare) - 1, false}, "balancing", why});
    } else if (next.move.from) {
      const auto& from = input.nodes[*next.move.from].name;
      proposals.push_back({migrate_expert{expert, input.nodes[next.move.to].name, from, false}, "balancing", why});
    } else {
      proposals.push_back({replicate_expert{expert, replicas(expert.index) + 1, false}, "balancing", why});
    }
  }
  return proposals;
}

}  // namespace troupe::coordinator
