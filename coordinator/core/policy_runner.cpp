#include "coordinator/core/policy_runner.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/bulk_commands.hpp"
#include "coordinator/core/expert_commands.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/prune_watch.hpp"

namespace troupe::coordinator::policy_runner {
namespace {

std::map<node_id, std::uint32_t> look_at_nodes(const cluster_state& state, policy_input& input) {
  std::map<node_id, std::uint32_t> index;
  for (const auto& [name, node] : state.nodes) {
    if (!takes_work(node)) continue;
    index.emplace(name, static_cast<std::uint32_t>(input.nodes.size()));
    auto used = std::min<std::size_t>(node.slots.size(), node.facts.slots_total);
    input.nodes.push_back({name, static_cast<std::uint32_t>(node.facts.slots_total - used), node.queue_rows});
  }
  return index;
}

expert_load look_at_expert(const cluster_state& state, const expert_entry& expert, bool is_changing) {
  expert_load load;
  load.index = expert.id.index;
  load.is_present = is_present(expert);
  load.is_dormant = expert.wish.presence == expert_presence::dormant;
  load.may_return = expert.wish.presence == expert_presence::pruned && expert.wish.pruned_by_policy;
  load.is_fixed = expert.wish.pinned || is_changing;
  auto usage = state.traffic.of(expert.id, state.now);
  load.rows = usage.rows_in_window;
  load.recent_rows = usage.rows_recent;
  load.long_rows = state.long_traffic.of(expert.id, state.now).rows_in_window;
  load.long_norm = static_cast<double>(state.long_norms.of(expert.id, state.now).rows_in_window) / 1e3;
  load.masked_rows = state.masked_rows.of(expert.id, state.now).rows_in_window;
  auto mass = static_cast<double>(state.masked_mass.of(expert.id, state.now).rows_in_window) / 1e6;
  load.masked_share = load.masked_rows == 0 ? 0 : mass / static_cast<double>(load.masked_rows);
  auto since = state.present_since.find(expert.id);
  load.was_watched = load.is_present && since != state.present_since.end() &&
                     state.now - since->second >= state.settings.policies.prune_window;
  return load;
}

std::chrono::milliseconds age_of_weights(const cluster_state& state, const expert_entry& expert) {
  auto source = state.sources.find(expert.version);
  auto since = source == state.sources.end() ? state.first_started_unix_ms : source->second.since_unix_ms;
  return std::chrono::milliseconds(std::max<std::int64_t>(unix_ms(state) - since, 0));
}

std::vector<watched_layer> look_for_cold(const cluster_state& state) {
  std::vector<watched_layer> layers;
  std::map<layer_id, time_point> first_seen;
  for (const auto& [id, since] : state.present_since) {
    auto [at, is_first] = first_seen.try_emplace(id.layer, since);
    if (!is_first) at->second = std::min(at->second, since);
  }
  for (const auto& expert : state.experts) {
    const auto& id = expert.id;
    if (layers.empty() || layers.back().id != id.layer) layers.push_back({id.layer, {}});
    auto since = state.present_since.find(id);
    if (since == state.present_since.end()) continue;
    // The others' rows reach back so far.
    auto begin = std::max(first_seen.at(id.layer), state.now - limits::traffic_window);
    layers.back().experts.push_back({id.index, state.traffic.of(id, state.now).rows_in_window, since->second > begin,
                                     expert.version, age_of_weights(state, expert)});
  }
  return layers;
}

void watch_cold(cluster_state& state) {
  if (state.settings.policies.cold_share <= 0) return;
  auto changes = judge_cold(look_for_cold(state), state.settings.policies, state.now, state.cold);
  std::size_t told = 0;
  for (auto& change : changes) {
    if (++told > limits::cold_events_per_look_max) break;
    auto level = change.what == cold_change::kind::stale ? severity::warning : severity::info;
    state.tell(level, std::string(to_string(change.what)), to_string(change.expert), std::move(change.why));
  }
  if (changes.size() <= limits::cold_events_per_look_max) return;
  state.tell(severity::info, "expert_cold", "cluster",
             fmt::format("{} more experts became cold, warm or stale; {} are cold now, see troupe expert list",
                         changes.size() - limits::cold_events_per_look_max, state.cold.size()));
}

// An expert is judged by what it did while it took part and the coordinator was there to see it.
void watch_presence(cluster_state& state) {
  for (const auto& expert : state.experts) {
    if (is_present(expert) && std::holds_alternative<expert_active>(expert.life)) {
      state.present_since.try_emplace(expert.id, state.now);
    } else {
      state.present_since.erase(expert.id);
    }
  }
}

layer_id layer_of(const apply_placement& what) { return what.experts.front().expert.layer; }
template <class Command>
layer_id layer_of(const Command& what) {
  return what.expert.layer;
}

// Looked at again next time. What an operator can change about it is told once, until the policy can do something
// again.
void tell_refused(cluster_state& state, const proposal& made, const error& why) {
  if (why.code != errc::conflict || !state.policies_refused.insert(made.policy).second) return;
  auto layer = std::visit([](const auto& what) { return layer_of(what); }, made.what);
  state.tell(severity::warning, "policy_refused", fmt::format("layer {}", to_string(layer)),
             fmt::format("{}: {}, but it cannot be done: {}", made.policy, made.why, why.message));
}

bool start(cluster_state& state, const proposal& made) {
  using bulk_commands::check;
  using expert_commands::check;
  if (std::holds_alternative<apply_placement>(made.what) && !bulk_commands::check_alone(state)) return false;
  auto decided = std::visit([&](const auto& what) { return check(state, what); }, made.what);
  if (!decided) tell_refused(state, made, decided.error());
  if (!decided || decided->records.empty()) return false;
  state.policies_refused.erase(made.policy);
  operations::sign(state, decided->records, "policy: " + made.policy, unix_ms(state), made.why);
  state.persist(std::move(decided->records), {});
  return true;
}

}  // namespace

policy_input look(const cluster_state& state) {
  policy_input input;
  auto index = look_at_nodes(state, input);
  for (const auto& expert : state.experts) {
    if (input.layers.empty() || input.layers.back().id != expert.id.layer)
      input.layers.push_back({expert.id.layer, {}, {}});
    auto& layer = input.layers.back();
    bool is_changing = operations::running_on(state, expert.id) != nullptr;
    auto load = look_at_expert(state, expert, is_changing);
    if (const auto* in_map = state.published->find(expert.id)) {
      for (const auto& replica : in_map->replicas) {
        auto at = index.find(state.published->nodes[replica.node].name);
        if (at != index.end()) load.nodes.push_back(at->second);
      }
    }
    layer.is_changing = layer.is_changing || is_changing;
    layer.experts.push_back(std::move(load));
  }
  return input;
}

void pass(cluster_state& state) {
  const auto& settings = state.settings.policies;
  bool is_asked = settings.adds || settings.prunes || settings.balances;
  bool is_ready = state.settled && !state.stopping && !state.alarm && state.term_durable && state.in_flight.empty();
  if (!is_ready || state.now < state.policies_due) return;
  state.policies_due = state.now + limits::policy_interval;
  watch_presence(state);
  watch_cold(state);
  if (settings.prunes) prune_watch::pass(state);
  if (!is_asked) return;
  auto running = operations::running(state);
  if (running >= limits::policy_operations_max) return;
  auto input = look(state);
  std::vector<proposal> proposals;
  auto ask = [&](bool is_on, auto policy) {
    if (is_on) std::ranges::move(policy(input, settings), std::back_inserter(proposals));
  };
  ask(settings.adds, propose_additions);
  ask(settings.prunes, propose_returns);
  ask(settings.balances, propose_moves);
  ask(settings.prunes, propose_prunes);
  std::set<layer_id> changed;
  for (const auto& made : proposals) {
    auto layer = std::visit([](const auto& what) { return layer_of(what); }, made.what);
    if (running >= limits::policy_operations_max || changed.contains(layer) || !start(state, made)) continue;
    changed.insert(layer);
    ++running;
  }
}

// Just after a start nothing has been judged: what the router knows from before is better than that.
void tell_cold(cluster_state& state, const node_entry& router, const node_id& name, std::uint64_t known) {
  bool is_judged = !state.cold.empty() || state.now - state.started >= limits::traffic_window;
  auto current = fingerprint(state.cold);
  if (known == current || !is_judged) return;
  cold_notice notice{state.term, current, {}};
  for (const auto& [expert, entry] : state.cold) notice.experts.push_back(expert);
  state.out.messages.push_back({router.peer, name, std::move(notice)});
}

}  // namespace troupe::coordinator::policy_runner
