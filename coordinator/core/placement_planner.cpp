#include "coordinator/core/placement_planner.hpp"

#include <algorithm>
#include <cassert>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "coordinator/core/expert_groups.hpp"

namespace troupe::coordinator {
namespace {

constexpr std::uint32_t nowhere = std::numeric_limits<std::uint32_t>::max();

class planner {
 public:
  explicit planner(const planner_input& input) : input_(input) {}

  placement_plan run() {
    keep();
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      add_chosen(e);
      trim(e);
    }
    place();
    step_aside();
    if (input_.balance) {
      gather();
      balance();
    }
    report_missing();
    return std::move(plan_);
  }

 private:
  // What one node would hold when the plan is carried out.
  struct node_load {
    double total{};
    std::vector<double> by_layer;
    std::uint32_t room{};  // slots that new replicas can go into now
    std::uint32_t replicas{};
  };

  [[nodiscard]] bool accepts(std::uint32_t n) const { return input_.nodes[n].accepts && input_.nodes[n].slots > 0; }
  [[nodiscard]] double fill(std::uint32_t n) const { return loads_[n].total / input_.nodes[n].slots; }
  [[nodiscard]] double layer_fill(std::uint32_t n, std::uint32_t e) const {
    return loads_[n].by_layer[layer_of_[e]] / input_.nodes[n].slots;
  }
  [[nodiscard]] bool holds(std::uint32_t e, std::uint32_t n) const {
    return std::ranges::find(plan_.wanted[e], n) != plan_.wanted[e].end();
  }
  // Also replicas that are to be dropped: the node cannot load what it still has.
  [[nodiscard]] bool has_copy(std::uint32_t e, std::uint32_t n) const {
    return holds(e, n) ||
           std::ranges::find(input_.experts[e].replicas, n, &planner_replica::node) != input_.experts[e].replicas.end();
  }
  [[nodiscard]] bool is_ready(std::uint32_t e, std::uint32_t n) const {
    return std::ranges::any_of(input_.experts[e].replicas, [&](auto& r) { return r.node == n && r.ready; });
  }
  [[nodiscard]] bool is_leaving(std::uint32_t e, std::uint32_t n) const {
    return std::ranges::any_of(input_.experts[e].replicas, [&](auto& r) { return r.node == n && r.leaving; });
  }
  [[nodiscard]] bool avoids(std::uint32_t e, std::uint32_t n) const {
    return std::ranges::find(input_.experts[e].avoid, n) != input_.experts[e].avoid.end();
  }

  void count(std::uint32_t e, std::uint32_t n, double sign) {
    loads_[n].total += sign * input_.experts[e].load;
    loads_[n].by_layer[layer_of_[e]] += sign * input_.experts[e].load;
    loads_[n].replicas += sign > 0 ? 1U : -1U;
    groups_.count(e, n, sign > 0, is_chosen(e, n));
  }
  void record(move_kind kind, std::uint32_t e, std::uint32_t n, move_reason reason,
              std::optional<std::uint32_t> replaces = {}) {
    plan_.moves.push_back({kind, input_.experts[e].id, n, reason, replaces});
  }
  void add(std::uint32_t e, std::uint32_t n, move_reason reason, std::optional<std::uint32_t> replaces = {}) {
    assert(loads_[n].room > 0 && !holds(e, n));
    auto& wanted = plan_.wanted[e];
    wanted.insert(std::ranges::upper_bound(wanted, n), n);
    count(e, n, 1);
    --loads_[n].room;
    record(move_kind::add, e, n, reason, replaces);
  }
  void remove(std::uint32_t e, std::uint32_t n) {
    std::erase(plan_.wanted[e], n);
    count(e, n, -1);
  }

  void keep() {
    std::map<layer_id, std::uint32_t> layers;
    for (const auto& expert : input_.experts) {
      auto number = static_cast<std::uint32_t>(layers.size());
      layer_of_.push_back(layers.try_emplace(expert.id.layer, number).first->second);
    }
    groups_ = expert_groups(input_);
    for (const auto& node : input_.nodes) {
      loads_.push_back({0, std::vector<double>(layers.size()), node.accepts ? node.slots_free : 0});
    }
    auto accepting = static_cast<std::uint32_t>(
        std::ranges::count_if(input_.nodes, [](const auto& node) { return node.accepts && node.slots > 0; }));
    plan_.wanted.resize(input_.experts.size());
    for (const auto& expert : input_.experts) {
      count_.push_back(std::min(expert.count.value_or(input_.replication), accepting));
      rounds_ = std::max(rounds_, count_.back());
    }
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      chosen_.emplace_back();
      for (auto n : input_.experts[e].chosen) {
        if (accepts(n) && chosen_[e].size() < count_[e]) chosen_[e].push_back(n);
      }
    }
    keep_in_mind();
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      for (const auto& replica : input_.experts[e].replicas) {
        assert(replica.node < input_.nodes.size() && !holds(e, replica.node));
        if (!accepts(replica.node)) {
          record(move_kind::drop, e, replica.node, move_reason::drain);
          continue;
        }
        plan_.wanted[e].push_back(replica.node);
        count(e, replica.node, 1);
      }
      std::ranges::sort(plan_.wanted[e]);
    }
  }

  // Experts that are out for now still weigh where they were: evening out would give their places away.
  void keep_in_mind() {
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      const auto& expert = input_.experts[e];
      if (expert.count != 0U) continue;
      for (auto n : expert.chosen) {
        loads_[n].total += expert.load;
        loads_[n].by_layer[layer_of_[e]] += expert.load;
      }
    }
  }

  // The nodes that count now: those that take work, no more than the expert has replicas.
  [[nodiscard]] bool is_chosen(std::uint32_t e, std::uint32_t n) const {
    return std::ranges::find(chosen_[e], n) != chosen_[e].end();
  }

  void add_chosen(std::uint32_t e) {
    for (auto n : chosen_[e]) {
      if (!has_copy(e, n) && !avoids(e, n) && loads_[n].room > 0) add(e, n, move_reason::chosen);
    }
  }

  // How many of the expert's replicas share this one's zone, itself included.
  [[nodiscard]] std::size_t zone_mates(std::uint32_t e, std::uint32_t n) const {
    const auto& zone = input_.nodes[n].zone;
    return static_cast<std::size_t>(
        std::ranges::count_if(plan_.wanted[e], [&](auto other) { return input_.nodes[other].zone == zone; }));
  }

  // The replica that another one was added to replace.
  [[nodiscard]] std::optional<std::uint32_t> replaced(std::uint32_t e) const {
    for (const auto& replica : input_.experts[e].replicas) {
      if (!replica.replaces || is_chosen(e, *replica.replaces)) continue;
      if (holds(e, replica.node) && holds(e, *replica.replaces)) return replica.replaces;
    }
    return std::nullopt;
  }

  void trim(std::uint32_t e) {
    // With no node that takes work the last replica stays where it is, unless none is wanted.
    auto least = input_.experts[e].count == 0U ? 0U : std::max(count_[e], 1U);
    while (plan_.wanted[e].size() > least) {
      auto given_up = replaced(e);
      auto worst = given_up ? *given_up : fullest(e);
      remove(e, worst);
      record(move_kind::drop, e, worst, move_reason::surplus);
      ++surplus_;
    }
  }

  [[nodiscard]] std::uint32_t fullest(std::uint32_t e) const {
    return *std::ranges::max_element(plan_.wanted[e], {}, [&](std::uint32_t n) {
      return std::tuple(!is_chosen(e, n), is_leaving(e, n), zone_mates(e, n) > 1, -groups_.held(e, n), fill(n),
                        layer_fill(n, e), !is_ready(e, n), n);
    });
  }

  // The best node for one more replica, or `nowhere`.
  [[nodiscard]] std::uint32_t choose(std::uint32_t e) const {
    std::uint32_t best = nowhere;
    auto score = [&](std::uint32_t n) {
      return std::tuple(zone_mates(e, n), groups_.distance(e, n), groups_.lacks_room(e, n, loads_[n].room),
                        layer_fill(n, e), fill(n), n);
    };
    for (std::uint32_t n = 0; n < input_.nodes.size(); ++n) {
      if (!accepts(n) || loads_[n].room == 0 || has_copy(e, n) || avoids(e, n)) continue;
      if (best == nowhere || score(n) < score(best)) best = n;
    }
    return best;
  }

  void place() {
    for (std::uint32_t round = 0; round < rounds_; ++round) {
      for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
        if (count_[e] <= round || plan_.wanted[e].size() > round) continue;
        auto reason = plan_.wanted[e].empty() ? move_reason::first_replica : move_reason::replication;
        if (auto n = choose(e); n != nowhere) {
          add(e, n, reason);
        } else {
          make_room(e);
        }
      }
    }
  }

  // Free slots are only left where expert `e` is already (or none at all): move another expert there, out of a node
  // that could take `e`. The freed slot is used by a later plan, once the move is done.
  void make_room(std::uint32_t e) {
    if (plan_.wanted[e].empty() || search_failed_ || made_room_ >= input_.balance_moves_max) return;
    for (std::uint32_t to = 0; to < input_.nodes.size(); ++to) {
      if (!accepts(to) || loads_[to].room == 0) continue;
      for (std::uint32_t other = 0; other < input_.experts.size(); ++other) {
        if (other == e || plan_.wanted[other].empty() || has_copy(other, to) || avoids(other, to)) continue;
        auto from = std::ranges::find_if(plan_.wanted[other], [&](std::uint32_t n) {
          return is_ready(other, n) && !is_chosen(other, n) && !has_copy(e, n) && !avoids(e, n);
        });
        if (from == plan_.wanted[other].end()) continue;
        auto source = *from;
        add(other, to, move_reason::make_room, source);
        remove(other, source);
        record(move_kind::drop, other, source, move_reason::make_room);
        ++made_room_;
        return;
      }
    }
    search_failed_ = true;  // one search over all experts per plan: the next plan tries again
  }

  // A chosen node has no slot for it, and none will be free by what is planned.
  [[nodiscard]] bool is_stuck_before(std::uint32_t e, std::uint32_t n) const {
    return !has_copy(e, n) && !avoids(e, n) && loads_[n].replicas >= input_.nodes[n].slots;
  }
  [[nodiscard]] bool is_stuck(std::uint32_t e) const {
    return std::ranges::any_of(chosen_[e], [&](auto n) { return is_stuck_before(e, n); });
  }

  // Experts that are to change places on full nodes are in each other's way. One of them waits on any node that has a
  // free slot: then its place is free for the next, whose place is free then, and so on until its own is.
  void step_aside() {
    std::vector<std::uint32_t> stuck;
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      if (is_stuck(e)) stuck.push_back(e);
    }
    for (auto e : stuck) {
      for (auto n : chosen_[e]) {
        if (is_stuck_before(e, n)) make_room_for_chosen(n, stuck);
      }
    }
  }
  void make_room_for_chosen(std::uint32_t n, const std::vector<std::uint32_t>& stuck) {
    for (auto other : stuck) {
      if (!holds(other, n) || is_chosen(other, n) || !is_ready(other, n) || !is_stuck(other)) continue;
      const auto to = choose(other);
      if (to == nowhere) continue;
      add(other, to, move_reason::make_room, n);
      remove(other, n);
      record(move_kind::drop, other, n, move_reason::make_room);
      return;
    }
  }

  // May balancing or gathering move it?
  [[nodiscard]] bool may_move(std::uint32_t e, std::uint32_t from, std::uint32_t to) const {
    if (!holds(e, from) || is_chosen(e, from) || !is_ready(e, from) || has_copy(e, to) || avoids(e, to)) return false;
    return zone_mates(e, from) > 1 || !shares_zone_elsewhere(e, from, to);
  }

  // What of e's group would leave the node as one: all that it holds of it, or what is more than its share. Begins with
  // the first of them; of an expert without group: itself.
  [[nodiscard]] std::vector<std::uint32_t> part_of(std::uint32_t e, std::uint32_t from) const {
    std::vector<std::uint32_t> part;
    for (auto mate : groups_.mates(e)) {
      if (holds(mate, from) && !is_chosen(mate, from)) part.push_back(mate);
    }
    part.resize(groups_.leaving(e, part.size()));
    return part;
  }
  [[nodiscard]] bool may_move(const std::vector<std::uint32_t>& part, std::uint32_t from, std::uint32_t to) const {
    return !part.empty() && loads_[to].room >= part.size() && groups_.takes(part.front(), to, part.size()) &&
           std::ranges::all_of(part, [&](std::uint32_t e) { return may_move(e, from, to); });
  }

  // The experts whose move from `from` to `to` helps the layers' own balance most.
  [[nodiscard]] std::vector<std::uint32_t> part_to_move(std::uint32_t from, std::uint32_t to) const {
    std::vector<std::uint32_t> best;
    double best_gain = 0;
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      double gain = layer_fill(from, e) - layer_fill(to, e);
      if ((!best.empty() && gain <= best_gain) || !may_move(e, from, to)) continue;
      auto part = part_of(e, from);
      const auto size = static_cast<double>(part.size());
      const bool is_even =
          (loads_[from].total - size) / input_.nodes[from].slots >= (loads_[to].total + size) / input_.nodes[to].slots;
      if (part.empty() || part.front() != e || !is_even || !may_move(part, from, to)) continue;
      best = std::move(part);
      best_gain = gain;
    }
    return best;
  }
  // Would the expert, moved from `from` to `to`, have two replicas in the zone of `to`?
  [[nodiscard]] bool shares_zone_elsewhere(std::uint32_t e, std::uint32_t from, std::uint32_t to) const {
    return std::ranges::any_of(
        plan_.wanted[e], [&](std::uint32_t n) { return n != from && input_.nodes[n].zone == input_.nodes[to].zone; });
  }

  // What is on its way already shows as surplus: at most so many moves at a time.
  [[nodiscard]] bool may_begin_move() const { return surplus_ + made_room_ + moved_ < input_.balance_moves_max; }

  void move(std::uint32_t e, std::uint32_t from, std::uint32_t to, move_reason reason) {
    add(e, to, reason, from);
    remove(e, from);
    record(move_kind::drop, e, from, reason);
    ++moved_;
  }

  void move(const std::vector<std::uint32_t>& part, std::uint32_t from, std::uint32_t to, move_reason reason) {
    for (auto e : part) move(e, from, to, reason);
  }

  void gather() {
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      if (groups_.mates(e).size() < 2 || groups_.mates(e).front() != e) continue;
      std::vector<std::uint32_t> holders;
      for (std::uint32_t n = 0; n < input_.nodes.size(); ++n) {
        if (groups_.held(e, n) > 0) holders.push_back(n);
      }
      if (may_begin_move() && holders.size() > 1) gather_once(e, holders);
    }
  }

  // Brings what one node holds of the group to another that holds some. Of two nodes to the one that is emptier
  // afterwards: that does not change while the experts move one by one, so no move is undone.
  void gather_once(std::uint32_t e, const std::vector<std::uint32_t>& holders) {
    for (auto from : holders) {
      for (auto to : holders) {
        if (from == to) continue;
        const auto part = part_of(e, from);
        const auto other = part_of(e, to);
        if (!may_move(part, from, to)) continue;
        const auto after = [&](std::uint32_t n, const std::vector<std::uint32_t>& more) {
          return std::tuple((loads_[n].total + static_cast<double>(more.size())) / input_.nodes[n].slots,
                            -groups_.held(e, n), n);
        };
        if (may_move(other, to, from) && after(from, other) < after(to, part)) continue;
        return move(part, from, to, move_reason::gather);
      }
    }
  }

  void balance() {
    while (may_begin_move() && balance_once()) {
    }
  }

  bool balance_once() {
    std::vector<std::uint32_t> by_fill;
    for (std::uint32_t n = 0; n < input_.nodes.size(); ++n) {
      if (accepts(n)) by_fill.push_back(n);
    }
    std::ranges::stable_sort(by_fill, {}, [&](std::uint32_t n) { return fill(n); });
    for (auto to : by_fill) {
      if (loads_[to].room == 0) continue;
      for (auto from = by_fill.rbegin(); from != by_fill.rend() && *from != to; ++from) {
        double source_after = (loads_[*from].total - 1) / input_.nodes[*from].slots;
        double target_after = (loads_[to].total + 1) / input_.nodes[to].slots;
        if (source_after < target_after) break;  // the next sources are emptier still
        auto part = part_to_move(*from, to);
        if (part.empty()) continue;
        move(part, *from, to, move_reason::balance);
        return true;
      }
    }
    return false;
  }

  void report_missing() {
    for (std::uint32_t e = 0; e < input_.experts.size(); ++e) {
      auto has = static_cast<std::uint32_t>(plan_.wanted[e].size());
      auto wanted = input_.experts[e].count.value_or(input_.replication);
      if (has < wanted) plan_.replicas_missing += wanted - has;
      if (has == 0 && wanted > 0) ++plan_.experts_without_replica;
    }
  }

  const planner_input& input_;
  std::vector<std::uint32_t> count_;                // per expert: replicas that there can be
  std::uint32_t rounds_{};                          // the largest count
  std::vector<std::vector<std::uint32_t>> chosen_;  // per expert
  std::vector<std::uint32_t> layer_of_;             // per expert: dense layer number
  std::vector<node_load> loads_;
  std::uint32_t surplus_{};
  std::uint32_t made_room_{};
  std::uint32_t moved_{};  // by gathering and balancing
  expert_groups groups_;
  bool search_failed_{};
  placement_plan plan_;
};

}  // namespace

std::string_view to_string(move_reason reason) {
  switch (reason) {
    case move_reason::first_replica:
      return "the expert is served nowhere";
    case move_reason::replication:
      return "fewer replicas than the replication asks for";
    case move_reason::drain:
      return "its node is being drained";
    case move_reason::surplus:
      return "more replicas than the replication asks for";
    case move_reason::make_room:
      return "makes room for another expert's replica";
    case move_reason::balance:
      return "evens out the nodes";
    case move_reason::chosen:
      return "an operator chose the node";
    case move_reason::gather:
      return "brings a group's experts together";
  }
  return "unknown";
}

placement_plan plan_placement(const planner_input& input) { return planner(input).run(); }

}  // namespace troupe::coordinator
