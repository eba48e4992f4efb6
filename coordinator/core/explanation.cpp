#include "coordinator/core/explanation.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/reconciler.hpp"

namespace troupe::coordinator {
namespace {

using kind = explained_replica::kind;

constexpr std::size_t companions_named = 3;

class explainer {
 public:
  explainer(const cluster_state& state, const expert_entry& expert)
      : state_(state), expert_(expert), name_(to_string(expert.id)) {}

  explanation run() {
    look_at_traffic();
    look_at_replicas();
    give_reasons();
    say_what_is_under_way();
    say_what_would_change();
    return std::move(result_);
  }

 private:
  void look_at_traffic() {
    std::uint64_t layer_rows = 0;
    std::uint64_t in_use = 0;
    for (const auto& other : state_.experts) {
      if (other.id.layer != expert_.id.layer) continue;
      layer_rows += state_.traffic.of(other.id, state_.now).rows_in_window;
      in_use += is_present(other) ? 1 : 0;
    }
    result_.rows_in_window = state_.traffic.of(expert_.id, state_.now).rows_in_window;
    if (layer_rows > 0) result_.share = static_cast<double>(result_.rows_in_window) / static_cast<double>(layer_rows);
    if (is_present(expert_)) result_.fair_share = 1.0 / static_cast<double>(in_use);
    result_.together = state_.pairs.of(expert_.id, state_.now);
  }

  [[nodiscard]] std::string companions_of() const {
    std::string text;
    for (std::size_t i = 0; i < std::min<std::size_t>(result_.together.most.size(), companions_named); ++i) {
      const auto& other = result_.together.most[i];
      text += fmt::format("{}{}/{} ({:.0f} %)", text.empty() ? "" : ", ", to_string(expert_.id.layer), other.expert,
                          100 * other.share);
    }
    return text;
  }

  [[nodiscard]] kind kind_of(const node_id& name, slot_index slot, const slot_entry& entry) const {
    bool in_map = reconciler::is_published(state_, name, slot, expert_.id);
    return std::visit(overloaded{
                          [](const slot_ordered&) { return kind::loading; },
                          [](const slot_loading&) { return kind::loading; },
                          [&](const slot_ready&) { return in_map ? kind::serving : kind::ready; },
                          [](const slot_presumed&) { return kind::serving; },
                          [](const slot_retiring&) { return kind::leaving; },
                          [](const slot_freeing&) { return kind::freeing; },
                          [](const slot_failed&) { return kind::failed; },
                      },
                      entry.life);
  }

  void look_at_replicas() {
    for (const auto& [name, node] : state_.nodes) {
      bool has_slot = false;
      for (const auto& [slot, entry] : node.slots) {
        if (entry.expert != expert_.id || !is_serving(node)) continue;
        has_slot = true;
        auto state = kind_of(name, slot, entry);
        const auto* failed = std::get_if<slot_failed>(&entry.life);
        bool goes = state == kind::leaving || state == kind::freeing;
        auto why = failed != nullptr ? failed->reason : goes ? entry.goes_for : entry.came_for;
        if (why.empty() && !goes) why = "there since before the coordinator's last start";
        result_.replicas.push_back({name, slot, state, std::move(why)});
      }
      bool is_wanted = std::ranges::find(expert_.wanted, name) != expert_.wanted.end();
      if (is_wanted && !has_slot) result_.replicas.push_back({name, std::nullopt, kind::wanted, "waits for its turn"});
    }
  }

  [[nodiscard]] std::string return_by_policy() const {
    const auto& settings = state_.settings.policies;
    if (!expert_.wish.pruned_by_policy || !settings.prunes) return "";
    return fmt::format("; it comes back by itself from {:.1f} % of the layer's gate probability on",
                       100 * limits::prune_return_factor * settings.prune_share);
  }

  // Who is behind a wish: the newest operation of that kind, if it is still known.
  [[nodiscard]] std::string credit(operation_kind what, std::optional<operation_kind> or_what = {}) const {
    for (auto at = state_.operations.rbegin(); at != state_.operations.rend(); ++at) {
      const auto& operation = at->second;
      bool holds = operation.state == operation_state::running || operation.state == operation_state::done;
      bool is_it = operation.kind == what || operation.kind == or_what;
      if (!holds || !is_it || operation.expert != expert_.id) continue;
      auto text = operation_name(operation.number) + (operation.who.empty() ? "" : " by " + operation.who);
      return operation.why.empty() ? text : fmt::format("{} ({})", text, operation.why);
    }
    return "an operator";
  }

  void give_reasons() {
    auto& reasons = result_.reasons;
    const auto& wish = expert_.wish;
    if (wish.presence == expert_presence::pruned)
      reasons.push_back(fmt::format("pruned, so no row chooses it: {}", credit(operation_kind::prune)));
    if (wish.presence == expert_presence::dormant)
      reasons.emplace_back("it is not added yet: the cluster was started with a part of each layer's experts");
    if (!is_present(expert_)) return;
    reasons.push_back(fmt::format("{} {} wanted: {}", wanted_replicas(state_, expert_),
                                  wanted_replicas(state_, expert_) == 1 ? "replica is" : "replicas are",
                                  wish.replicas ? credit(operation_kind::replicate) : "the cluster's replication"));
    if (!wish.nodes.empty()) {
      reasons.push_back(wish.pinned ? fmt::format("pinned to {} by an operator", names(wish.nodes))
                                    : fmt::format("put on {}: {}", names(wish.nodes),
                                                  credit(operation_kind::migrate, operation_kind::restore)));
    }
    auto window = std::chrono::duration_cast<std::chrono::seconds>(limits::traffic_window).count();
    if (result_.rows_in_window == 0) {
      reasons.push_back(fmt::format("no row chose it in the last {} s", window));
    } else {
      reasons.push_back(fmt::format("{:.1f} % of its layer's rows in the last {} s, {:.2f} times its fair share",
                                    100 * result_.share, window, result_.share / result_.fair_share));
    }
    if (!result_.together.most.empty())
      reasons.push_back(fmt::format("its rows chose most often, too: {}", companions_of()));
    if (const auto* cold = cold_entry_of()) {
      reasons.push_back(fmt::format(
          "cold for {} s: it had {} of its layer's {} rows, {:.2f} times its fair share (cold under {:.2f}); its "
          "weights are {:.1f} h old",
          std::chrono::duration_cast<std::chrono::seconds>(state_.now - cold->since).count(), cold->rows,
          cold->layer_rows, cold->of_fair_share, state_.settings.policies.cold_share,
          std::chrono::duration<double, std::ratio<3600>>(cold->age).count()));
    }
  }

  [[nodiscard]] const cold_entry* cold_entry_of() const {
    auto at = state_.cold.find(expert_.id);
    return at == state_.cold.end() ? nullptr : &at->second;
  }

  void say_what_is_under_way() {
    auto& lines = result_.under_way;
    if (const auto* operation = operations::running_on(state_, expert_.id)) {
      auto seen = operations::look(state_, *operation);
      lines.push_back(fmt::format("{}: {}, {}{}", operation_name(operation->number), to_string(operation->kind),
                                  operations::to_string(seen.at),
                                  seen.detail.empty() ? "" : fmt::format(" ({})", seen.detail)));
    }
    for (const auto& replica : result_.replicas) {
      if (replica.state == kind::serving) continue;
      lines.push_back(fmt::format("{}: {}", replica.node.value, to_string(replica.state)));
    }
    if (!expert_.last_failure.empty()) {
      lines.push_back(fmt::format("could not be loaded on {}; it is tried again", expert_.last_failure));
    }
  }

  void say_what_would_change() {
    auto& lines = result_.would_change;
    say_about_nodes(lines);
    if (const auto* operation = operations::running_on(state_, expert_.id)) {
      lines.push_back(
          fmt::format("{0} is under way; take it back: troupe op cancel {0}", operation_name(operation->number)));
    }
    const auto& wish = expert_.wish;
    if (wish.presence == expert_presence::pruned)
      lines.push_back(fmt::format("pruned; bring it back: troupe expert restore {}{}", name_, return_by_policy()));
    if (wish.presence == expert_presence::dormant)
      lines.push_back(fmt::format("not added yet; let it take part: troupe expert add {}", name_));
    if (!is_present(expert_)) return;
    if (cold_entry_of() != nullptr)
      lines.push_back(
          fmt::format("cold; warm again from {:.2f} times its fair share on; what it gets can be kept for "
                      "training: troupe up --cold-reservoir-rows, troupe expert export-inputs {}",
                      limits::cold_warm_factor * state_.settings.policies.cold_share, name_));
    if (!wish.nodes.empty()) {
      lines.push_back(fmt::format("{}; let the planner move it: troupe expert unpin {}",
                                  wish.pinned ? "pinned by an operator" : "it stays where it was put", name_));
    }
    if (wish.replicas) {
      lines.push_back(fmt::format("{} replicas are its own number; as others: troupe expert replicate {} --count {}",
                                  *wish.replicas, name_, state_.settings.replication));
    }
    if (expert_.wanted.size() < wanted_replicas(state_, expert_) && state_.planned)
      lines.emplace_back("there is no room for more replicas; add nodes, or free slots");
    if (wish.nodes.empty())
      lines.push_back(
          fmt::format("the planner moves it when its node is drained or lost, or to fill nodes evenly; move it "
                      "yourself: troupe expert migrate {} --to NODE",
                      name_));
  }

  void say_about_nodes(std::vector<std::string>& lines) const {
    for (const auto& replica : result_.replicas) {
      if (!state_.nodes.at(replica.node).is_draining()) continue;
      lines.push_back(fmt::format("{0} is being drained; keep it there: troupe node undrain {0}", replica.node.value));
    }
    for (const auto& name : expert_.wish.nodes) {
      auto at = state_.nodes.find(name);
      if (at != state_.nodes.end() && is_serving(at->second)) continue;
      lines.push_back(fmt::format("{} is not there; the replica goes back to it when it serves", name.value));
    }
  }

  const cluster_state& state_;
  const expert_entry& expert_;
  const std::string name_;
  explanation result_;
};

}  // namespace

std::string_view to_string(kind state) {
  constexpr std::string_view names[] = {"wanted", "loading", "ready", "serving", "leaving", "freeing", "failed"};
  return names[static_cast<std::size_t>(state)];
}

explanation explain(const cluster_state& state, const expert_entry& expert) { return explainer(state, expert).run(); }

}  // namespace troupe::coordinator
