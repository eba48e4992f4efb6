#include "coordinator/core/operations.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/publisher.hpp"
#include "coordinator/core/reconciler.hpp"

namespace troupe::coordinator {

std::string_view to_string(operation_kind kind) {
  switch (kind) {
    case operation_kind::migrate:
      return "migrate";
    case operation_kind::replicate:
      return "replicate";
    case operation_kind::drain:
      return "drain";
    case operation_kind::prune:
      return "prune";
    case operation_kind::restore:
      return "restore";
    case operation_kind::add:
      return "add";
  }
  return "unknown";
}

std::string_view to_string(operation_state state) {
  switch (state) {
    case operation_state::running:
      return "running";
    case operation_state::done:
      return "done";
    case operation_state::failed:
      return "failed";
    case operation_state::cancelled:
      return "cancelled";
    case operation_state::rolled_back:
      return "rolled_back";
  }
  return "unknown";
}

std::string operation_name(std::uint64_t number) { return fmt::format("op-{}", number); }

namespace operations {
namespace {

template <class... Lives>
bool is_any(const slot_entry& entry) {
  return (std::holds_alternative<Lives>(entry.life) || ...);
}

// Silent for a moment counts: no operation ends over that.
bool stays_in_use(const node_entry& node) { return node.is_expert() && is_serving(node) && !node.is_draining(); }

// The slot of the expert on that node; a replica before what is left of one.
const std::pair<const slot_index, slot_entry>* slot_of(const node_entry& node, const expert_id& expert) {
  const std::pair<const slot_index, slot_entry>* found = nullptr;
  for (const auto& item : node.slots) {
    if (item.second.expert != expert) continue;
    found = &item;
    if (!is_any<slot_freeing, slot_failed>(item.second)) return found;
  }
  return found;
}

step step_of_wanted(const cluster_state& state, const node_id& name, const expert_id& expert) {
  auto node = state.nodes.find(name);
  if (node == state.nodes.end()) return step::reserve;
  const auto* slot = slot_of(node->second, expert);
  if (slot == nullptr || is_any<slot_ordered, slot_failed, slot_freeing>(slot->second)) return step::reserve;
  if (is_any<slot_loading>(slot->second)) return step::copy;
  return reconciler::is_published(state, name, slot->first, expert) ? step::complete : step::publish;
}

step step_of_surplus(const slot_entry& entry) {
  if (is_any<slot_ready, slot_presumed>(entry)) return step::acknowledge;
  return is_any<slot_retiring>(entry) ? step::drain : step::free;
}

bool is_wanted_on(const expert_entry& expert, const node_id& name) {
  return std::ranges::find(expert.wanted, name) != expert.wanted.end();
}

// Going back: nodes that cannot take the replica any more are not waited for.
bool can_go_back_to(const cluster_state& state, const node_id& name, const expert_id& expert) {
  auto at = state.nodes.find(name);
  if (at == state.nodes.end() || !stays_in_use(at->second)) return false;
  const auto& node = at->second;
  auto failure = node.failures.find(expert);
  if (failure != node.failures.end() && failure->second.count >= limits::operation_load_failures_max) return false;
  return slot_of(node, expert) != nullptr || node.slots.size() < node.facts.slots_total;
}

// What the plan does not want yet though the operation does; empty: nothing.
std::string missing_in_plan(const cluster_state& state, const expert_entry& expert, const operation_record& operation) {
  if (operation.cancelling) {
    std::size_t back = 0;
    for (const auto& name : operation.from) {
      if (back++ == std::max(operation.replicas_before, 1U)) break;
      if (!is_wanted_on(expert, name) && can_go_back_to(state, name, expert.id))
        return fmt::format("its replica comes back to {}", name.value);
    }
    return "";
  }
  if (operation.kind == operation_kind::migrate && !is_wanted_on(expert, operation.node))
    return fmt::format("no slot of {} is free", operation.node.value);
  bool brings_back = operation.kind == operation_kind::restore || operation.kind == operation_kind::add;
  if (brings_back && expert.wanted.empty()) return "no node has a free slot";
  if (operation.kind == operation_kind::replicate && expert.wanted.size() != operation.replicas_after)
    return fmt::format("there is room for {} of {} replicas", expert.wanted.size(), operation.replicas_after);
  return "";
}

progress look_at_expert(const cluster_state& state, const operation_record& operation) {
  const auto* expert = state.find(operation.expert);
  if (expert == nullptr) return {step::reserve, 0, "the model has no such expert"};
  auto waits_for = missing_in_plan(state, *expert, operation);
  bool is_placed = expert->wanted.empty() != is_present(*expert);
  auto at = waits_for.empty() && is_placed ? step::complete : step::reserve;
  for (const auto& name : expert->wanted) {
    auto seen = step_of_wanted(state, name, expert->id);
    if (seen >= at) continue;
    at = seen;
    waits_for = name.value;
  }
  bool has_surplus = false;
  for (const auto& [name, node] : state.nodes) {
    const auto* slot = is_serving(node) && !is_wanted_on(*expert, name) ? slot_of(node, expert->id) : nullptr;
    has_surplus = has_surplus || slot != nullptr;
    if (slot == nullptr || step_of_surplus(slot->second) >= at) continue;
    at = step_of_surplus(slot->second);
    waits_for = name.value;
  }
  // Not by a map that is about to be replaced: the next one may lack a replica that is wanted again only since then.
  bool is_mapped = is_masked(state, expert->id) != is_present(*expert) && !publisher::is_writing_map(state);
  if (at == step::complete && !is_mapped) at = step::publish;
  if (at == step::complete && !has_surplus && !reconciler::all_routers_know(state, state.published->epoch))
    at = step::acknowledge;
  return {at, static_cast<double>(at) / static_cast<double>(step::complete), waits_for};
}

progress look_at_drain(const cluster_state& state, const operation_record& operation) {
  auto node = state.nodes.find(operation.node);
  if (node == state.nodes.end() || !node->second.drain) return {step::reserve, 0, "the node is gone"};
  const auto& slots = node->second.slots;
  if (node->second.drain->done) return {step::complete, 1, ""};
  auto at = step::free;
  for (const auto& [slot, entry] : slots) {
    if (is_any<slot_ready, slot_presumed>(entry)) {
      at = step::copy;
      break;
    }
    if (is_any<slot_retiring>(entry)) at = step::drain;
  }
  auto total = std::max<std::size_t>({node->second.drain->replicas_at_start, slots.size(), 1});
  return {at, 1 - static_cast<double>(slots.size()) / static_cast<double>(total),
          fmt::format("{} slots of {} are left", slots.size(), operation.node.value)};
}

// Why it can never be completed as things are; empty: it can.
std::string obstacle(const cluster_state& state, const operation_record& operation) {
  if (state.find(operation.expert) == nullptr) return "the model has no such expert";
  if (operation.kind == operation_kind::prune) return "";
  auto fails_on = [&](const node_entry& node) {
    auto failure = node.failures.find(operation.expert);
    return failure != node.failures.end() && failure->second.count >= limits::operation_load_failures_max;
  };
  if (operation.kind == operation_kind::migrate) {
    auto at = state.nodes.find(operation.node);
    if (at == state.nodes.end() || at->second.removed) return fmt::format("{} was removed", operation.node.value);
    const auto& target = at->second;
    if (target.is_draining()) return fmt::format("{} is being drained", operation.node.value);
    if (!is_serving(target))
      return fmt::format("{} is {}", operation.node.value, troupe::to_string(shown_state(target)));
    if (fails_on(target))
      return fmt::format("{} could not load it: {}", operation.node.value, target.failures.at(operation.expert).reason);
    return "";
  }
  std::string reason;
  for (const auto& [name, node] : state.nodes) {
    if (!stays_in_use(node) || slot_of(node, operation.expert) != nullptr) continue;
    if (!fails_on(node)) return "";
    reason = fmt::format("{} could not load it: {}", name.value, node.failures.at(operation.expert).reason);
  }
  return reason;
}

void end(cluster_state& state, const operation_record& operation, operation_state how, std::string reason,
         bool go_back) {
  auto records = ended(state, operation, how, std::move(reason));
  if (go_back) records.emplace_back(wish_record{operation.expert, operation.before});
  state.persist(std::move(records), {});
}

void advance_drain(cluster_state& state, const operation_record& operation) {
  auto at = state.nodes.find(operation.node);
  if (at == state.nodes.end() || at->second.removed)
    return end(state, operation, operation_state::failed, "the node was removed", false);
  const auto& drain = at->second.drain;
  if (!drain || drain->id != operation_name(operation.number))
    return end(state, operation, operation_state::cancelled, "the node was given work again", false);
  if (drain->done) end(state, operation, operation_state::done, "", false);
}

void advance_expert(cluster_state& state, const operation_record& operation) {
  if (look_at_expert(state, operation).at == step::complete) {
    auto how = operation.cancelling ? operation_state::cancelled : operation_state::done;
    return end(state, operation, how, operation.reason, operation.cancelling);
  }
  if (operation.cancelling) return;
  if (auto reason = obstacle(state, operation); !reason.empty())
    end(state, operation, operation_state::rolled_back, reason, true);
}

std::string object_of(const operation_record& operation) {
  return operation.kind == operation_kind::drain ? operation.node.value : to_string(operation.expert);
}

void tell_change(cluster_state& state, const operation_record* before, const operation_record& now) {
  auto text = fmt::format("{}: {} {}", operation_name(now.number), to_string(now.kind), object_of(now));
  if (now.kind == operation_kind::migrate) text += fmt::format(" to {}", now.node.value);
  if (now.kind == operation_kind::replicate) text += fmt::format(" {} times", now.replicas_after);
  if (before == nullptr && !now.why.empty()) text += fmt::format(": {}", now.why);
  if (!now.reason.empty()) text += fmt::format(": {}", now.reason);
  if (before == nullptr) return state.tell(severity::info, "operation_started", object_of(now), text);
  if (before->state != operation_state::running || now.state == operation_state::running) return;
  ++state.operations_ended[{now.kind, now.state}];
  bool is_good = now.state == operation_state::done || now.state == operation_state::cancelled;
  const char* kind = now.state == operation_state::done        ? "operation_done"
                     : now.state == operation_state::cancelled ? "operation_cancelled"
                                                               : "operation_failed";
  state.tell(is_good ? severity::info : severity::warning, kind, object_of(now), text);
}

void begin(cluster_state& state, const operation_record& operation) {
  // An operator's wish is a new chance for nodes that failed to load the expert.
  if (operation.kind == operation_kind::drain) return;
  for (auto& [name, node] : state.nodes) node.failures.erase(operation.expert);
}

}  // namespace

std::string_view to_string(step s) {
  constexpr std::string_view names[] = {"reserve", "copy", "publish", "acknowledge", "drain", "free", "complete"};
  return names[static_cast<std::size_t>(s)];
}

progress look(const cluster_state& state, const operation_record& operation) {
  return operation.kind == operation_kind::drain ? look_at_drain(state, operation) : look_at_expert(state, operation);
}

const operation_record* running_on(const cluster_state& state, const expert_id& expert) {
  auto concerns = [&](const operation_record& operation) {
    return operation.state == operation_state::running && operation.kind != operation_kind::drain &&
           operation.expert == expert;
  };
  if (const auto* written = find_in_flight<operation_record>(state, concerns)) return written;
  for (const auto& [number, operation] : state.operations) {
    if (concerns(operation)) return &operation;
  }
  return nullptr;
}

bool is_in_flight(const cluster_state& state, std::uint64_t number) {
  return find_in_flight<operation_record>(state, [&](const auto& one) { return one.number == number; }) != nullptr;
}

std::size_t running(const cluster_state& state) {
  return static_cast<std::size_t>(std::ranges::count_if(
      state.operations, [](const auto& item) { return item.second.state == operation_state::running; }));
}

expert_wish way_back(const operation_record& operation) {
  auto wish = operation.before;
  wish.nodes = operation.from;
  return wish;
}

std::vector<store_record> ended(const cluster_state& state, operation_record operation, operation_state how,
                                std::string reason) {
  operation.state = how;
  operation.reason = std::move(reason);
  std::vector<store_record> records{operation};
  std::size_t kept = state.operations.size() - running(state) + 1;
  for (const auto& [number, old] : state.operations) {
    if (kept <= limits::operations_kept_max) break;
    if (old.state == operation_state::running) continue;
    records.emplace_back(operation_erased{number});
    --kept;
  }
  return records;
}

void sign(cluster_state& state, std::vector<store_record>& records, const std::string& who, std::int64_t at_unix_ms,
          const std::string& why) {
  for (auto& record : records) {
    auto* operation = std::get_if<operation_record>(&record);
    if (operation == nullptr || operation->number <= state.last_operation) continue;
    operation->who = who;
    operation->since_unix_ms = at_unix_ms;
    operation->why = why;
    state.last_operation = operation->number;
  }
}

void advance(cluster_state& state) {
  if (state.alarm && state.now < state.store_retry_at) return;
  for (const auto& [number, operation] : state.operations) {
    if (operation.state != operation_state::running || is_in_flight(state, number)) continue;
    if (operation.kind == operation_kind::drain) {
      advance_drain(state, operation);
    } else {
      advance_expert(state, operation);
    }
  }
}

void committed(cluster_state& state, const persist_in_flight& done) {
  for (const auto& item : done.records) {
    if (const auto* wish = std::get_if<wish_record>(&item); wish != nullptr && !done.rewrites_operations) {
      if (auto* expert = state.find(wish->expert)) expert->wish = wish->wish;
    } else if (const auto* now = std::get_if<operation_record>(&item); now != nullptr && !done.rewrites_operations) {
      auto before = state.operations.find(now->number);
      bool is_new = before == state.operations.end();
      tell_change(state, is_new ? nullptr : &before->second, *now);
      if (is_new) begin(state, *now);
      state.operations[now->number] = *now;
    } else if (const auto* erased = std::get_if<operation_erased>(&item)) {
      state.operations.erase(erased->number);
      state.operations_to_erase.erase(erased->number);
    }
  }
  if (done.rewrites_operations) state.rewrite_operations = !state.operations_to_erase.empty();
  state.dirty = true;
}

void not_written(cluster_state& state, const persist_in_flight& failed) {
  state.rewrite_operations = true;
  for (const auto& item : failed.records) {
    const auto* operation = std::get_if<operation_record>(&item);
    if (operation != nullptr && !state.operations.contains(operation->number))
      state.operations_to_erase.insert(operation->number);
  }
}

std::vector<store_record> all_records(const cluster_state& state) {
  std::vector<store_record> records;
  for (const auto& expert : state.experts) records.emplace_back(wish_record{expert.id, expert.wish});
  for (const auto& [number, operation] : state.operations) records.emplace_back(operation);
  for (auto number : state.operations_to_erase) records.emplace_back(operation_erased{number});
  return records;
}

}  // namespace operations
}  // namespace troupe::coordinator
