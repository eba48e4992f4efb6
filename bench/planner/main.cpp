// bench_planner [SEEDS]: the planner beside the published balancer, on loads that change by chance. Prints a table per
// question, in Markdown. Times are CPU time of this process, so that neighbours on the machine count little.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <vector>

#include "bench/planner/eplb.hpp"
#include "bench/planner/placement.hpp"
#include "coordinator/core/load_planner.hpp"

namespace troupe::bench {
namespace {

using coordinator::layer_plan;
using coordinator::load_node;
using coordinator::load_planner;
using placement = std::vector<std::uint32_t>;

constexpr std::uint32_t layers = 58, experts = 256, nodes = 32;
constexpr eplb_shape global{experts, 288, nodes, 1, 1};
constexpr eplb_shape hierarchical{experts, 288, nodes, 4, 8};

double cpu_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct layer_loads {
  std::vector<double> before, after;
};

// Zipf, shuffled per layer, then each expert times a log-normal number. Own Box-Muller: the same loads everywhere.
std::vector<layer_loads> make_loads(double exponent, double noise, std::uint64_t seed) {
  std::mt19937_64 random{seed};
  auto uniform = [&] { return static_cast<double>((random() >> 11) + 1) * 0x1.0p-53; };
  std::vector<layer_loads> all(layers);
  for (auto& layer : all) {
    for (std::uint32_t e = 0; e < experts; ++e) layer.before.push_back(std::pow(e + 1.0, -exponent));
    for (std::uint32_t e = experts - 1; e > 0; --e) std::swap(layer.before[e], layer.before[random() % (e + 1)]);
    for (auto load : layer.before) {
      const double normal = std::sqrt(-2 * std::log(uniform())) * std::cos(2 * 3.14159265358979 * uniform());
      layer.after.push_back(load * std::exp(noise * normal));
    }
  }
  return all;
}

struct figures {
  double imbalance_mean{}, imbalance_max{}, moves_mean{}, moves_max{}, wasted{}, ms{};
  double renamed{};  // moves, when nodes may be renamed

  void add(double imbalance_now, double moves, double wasted_now, double parts) {
    imbalance_mean += imbalance_now / parts;
    imbalance_max = std::max(imbalance_max, imbalance_now);
    moves_mean += moves / parts;
    moves_max = std::max(moves_max, moves);
    wasted += wasted_now / parts;
  }
};

void print_row(double exponent, double noise, const char* who, const figures& f) {
  fmt::print("| {:.1f} | {:.0f} % | {} | {:.4f} | {:.4f} | {:.1f} | {:.0f} | {} | {:.2f} | {:.2f} |\n", exponent,
             noise * 100, who, f.imbalance_mean, f.imbalance_max, f.moves_mean, f.moves_max,
             f.renamed > 0 ? fmt::format("{:.1f}", f.renamed) : "", f.wasted, f.ms);
}

// How one contender places the loads of before, and from that placement those of after.
struct contender {
  const char* name;
  std::function<placement(const std::vector<double>&)> first;
  std::function<placement(const std::vector<double>&, const placement&)> next;
  bool renames{};
};

figures measure(const contender& who, const std::vector<layer_loads>& all, const std::vector<std::uint32_t>& node_slots,
                double parts) {
  std::vector<placement> before, after;
  for (const auto& layer : all) before.push_back(who.first(layer.before));
  const double begin = cpu_ms();
  for (std::size_t l = 0; l < all.size(); ++l) after.push_back(who.next(all[l].after, before[l]));
  figures f;
  f.ms = cpu_ms() - begin;
  for (std::size_t l = 0; l < all.size(); ++l) {
    f.add(imbalance(all[l].after, after[l], node_slots), count_moves(before[l], after[l], node_slots),
          count_wasted(after[l], node_slots), parts);
    if (!who.renames) continue;
    const auto renamed = rename_nodes(before[l], after[l], node_slots[0]);
    f.renamed += count_moves(before[l], renamed, node_slots) / parts;
  }
  return f;
}

std::vector<load_node> planner_nodes(const std::vector<std::uint32_t>& node_slots) {
  std::vector<load_node> all;
  for (auto slots : node_slots) all.push_back({slots, 0, 1});
  return all;
}

void compare(const std::vector<std::uint32_t>& node_slots, std::uint64_t seeds, bool with_eplb) {
  for (double exponent : {0.5, 0.8, 1.1}) {
    for (auto [noise, moves_max] : {std::pair{0.1, 10}, {0.3, 25}, {0.6, 50}}) {
      load_planner limited{planner_nodes(node_slots), {.moves_max = moves_max}};
      load_planner unlimited{planner_nodes(node_slots), {}};
      auto first = [&](const auto& loads) { return unlimited.plan(loads, {}).expert_of_slot; };
      auto next = [](load_planner& planner) {
        return [&](const auto& loads, const placement& old) { return planner.plan(loads, old).expert_of_slot; };
      };
      std::vector<contender> all{
          {"keep the plan", first, [](const auto&, const placement& old) { return old; }},
          {"Troupe", first, next(limited)},
          {"Troupe, no limit of moves", first, next(unlimited)},
          {"Troupe, from scratch", first, [&](const auto& loads, auto&) { return first(loads); }}};
      for (auto& [name, shape] : {std::pair{"EPLB global", global}, {"EPLB hierarchical", hierarchical}}) {
        auto plan = [shape = shape](const auto& loads, auto&...) { return eplb(loads, shape); };
        if (with_eplb) all.push_back({name, plan, plan, true});
      }
      for (const auto& who : all) {
        figures sum;
        for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
          const auto one =
              measure(who, make_loads(exponent, noise, seed), node_slots, layers * static_cast<double>(seeds));
          sum.imbalance_mean += one.imbalance_mean;
          sum.imbalance_max = std::max(sum.imbalance_max, one.imbalance_max);
          sum.moves_mean += one.moves_mean;
          sum.moves_max = std::max(sum.moves_max, one.moves_max);
          sum.renamed += one.renamed;
          sum.wasted += one.wasted;
          sum.ms += one.ms / static_cast<double>(seeds);
        }
        print_row(exponent, noise, who.name, sum);
      }
    }
  }
}

void print_head(const char* title) {
  fmt::print(
      "\n{}\n\n| Zipf | noise | planner | imbalance mean | max | moves per layer | max | after renaming | wasted "
      "slots per layer | ms for {} layers |\n|---|---|---|---|---|---|---|---|---|---|\n",
      title, layers);
}

}  // namespace
}  // namespace troupe::bench

int main(int argc, char** argv) {
  using namespace troupe::bench;
  const auto seeds = static_cast<std::uint64_t>(argc > 1 ? std::max(1, std::atoi(argv[1])) : 5);
  print_head("32 equal nodes of 9 slots");
  compare(std::vector<std::uint32_t>(nodes, 9), seeds, true);
  std::vector<std::uint32_t> unequal(nodes / 2, 12);
  unequal.resize(nodes, 6);
  print_head("16 nodes of 12 slots and 16 of 6, all equally fast");
  compare(unequal, seeds, false);
}
