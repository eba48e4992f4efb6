#include "coordinator/core/operations.hpp"

#include <algorithm>
#include <iterator>

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
    case operation_kind::refresh:
      return "refresh";
    case operation_kind::rollback:
      return "rollback";
    case operation_kind::apply:
      return "apply";
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
  if (look(state, operation).at == step::complete) {
    auto how = operation.cancelling ? operation_state::cancelled : operation_state::done;
    return end(state, operation, how, operation.reason, operation.cancelling);
  }
  if (operation.cancelling) return;
  if (auto reason = obstacle(state, operation); !reason.empty())
    end(state, operation, operation_state::rolled_back, reason, true);
}

// It cannot go back either: what has not gone back stays as the operation made it.
void stay(cluster_state& state, const operation_record& operation, const course& at, const std::string& why) {
  const auto& layer = (at.newest.empty() ? at.rest : at.newest).front().expert.layer;
  auto reason = fmt::format("{}; it could not go back from layer {} on: {}", operation.reason, to_string(layer), why);
  auto records = ended(state, operation, operation_state::failed, std::move(reason));
  for (const auto& change : at.newest) {
    if (!are_complete(state, {&change, 1})) records.emplace_back(wish_record{change.expert, change.after});
  }
  state.persist(std::move(records), {});
}

// The layers one after the other, so that the slots that one needs beside those in use are free again for the next.
void advance_many(cluster_state& state, const operation_record& operation) {
  const auto at = course_of(state, operation);
  const bool goes_on = at.newest.empty() || are_complete(state, at.newest);
  if (at.rest.empty() && goes_on) {
    auto how = operation.is_failing   ? operation_state::rolled_back
               : operation.cancelling ? operation_state::cancelled
                                      : operation_state::done;
    return end(state, operation, how, operation.reason, false);
  }
  auto reason = goes_on ? "" : obstacle(state, operation);
  if (goes_on) {
    auto batch = next_batch(state, operation, at.rest);
    if (!batch.empty()) {
      std::vector<store_record> records{operation};
      std::ranges::move(batch, std::back_inserter(records));
      return state.persist(std::move(records), {});
    }
    if (is_at_rest(state)) reason = "no node has a free slot for any of its next experts";
  }
  if (reason.empty()) return;
  if (operation.cancelling) return stay(state, operation, at, reason);
  auto back = operation;
  back.cancelling = back.is_failing = true;
  back.reason = std::move(reason);
  state.persist({std::move(back)}, {});
}

std::string object_of(const operation_record& operation) {
  if (!operation.changes.empty()) return operation.subject;
  return operation.kind == operation_kind::drain ? operation.node.value : to_string(operation.expert);
}

void count_end(cluster_state& state, const operation_record& operation) {
  auto& totals = state.totals;
  ++totals.ended[{operation.kind, operation.state}];
  if (operation.state != operation_state::done) return;
  const auto now = unix_ms(state);
  if (operation.kind == operation_kind::refresh) totals.refreshed_unix_ms = now;
  if (operation.kind == operation_kind::migrate) {
    totals.count_migration(std::chrono::milliseconds(std::max<std::int64_t>(now - operation.since_unix_ms, 0)));
  }
}

void tell_change(cluster_state& state, const operation_record* before, const operation_record& now) {
  auto text = fmt::format("{}: {} {}", operation_name(now.number), to_string(now.kind), object_of(now));
  if (now.kind == operation_kind::migrate) text += fmt::format(" to {}", now.node.value);
  if (now.kind == operation_kind::replicate) text += fmt::format(" {} times", now.replicas_after);
  if (before == nullptr && !now.why.empty()) text += fmt::format(": {}", now.why);
  if (!now.reason.empty()) text += fmt::format(": {}", now.reason);
  if (before == nullptr) {
    state.totals.migrations_begun += now.kind == operation_kind::migrate ? 1 : 0;
    return state.tell(severity::info, "operation_started", object_of(now), text);
  }
  if (before->state != operation_state::running || now.state == operation_state::running) return;
  count_end(state, now);
  bool is_good = now.state == operation_state::done || now.state == operation_state::cancelled;
  const char* kind = now.state == operation_state::done        ? "operation_done"
                     : now.state == operation_state::cancelled ? "operation_cancelled"
                                                               : "operation_failed";
  state.tell(is_good ? severity::info : severity::warning, kind, object_of(now), text);
}

void begin(cluster_state& state, const operation_record& operation) {
  // An operator's wish is a new chance for nodes that failed to load the expert.
  if (operation.kind == operation_kind::drain) return;
  for (auto& [name, node] : state.nodes) {
    node.failures.erase(operation.expert);
    for (const auto& change : operation.changes) node.failures.erase(change.expert);
  }
}

}  // namespace

const operation_record* running_on(const cluster_state& state, const expert_id& expert) {
  auto concerns = [&](const operation_record& operation) {
    if (operation.state != operation_state::running || operation.kind == operation_kind::drain) return false;
    if (operation.changes.empty()) return operation.expert == expert;
    return std::ranges::binary_search(operation.changes, expert, {}, &wish_change::expert);
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
  for (auto [version, source] : state.sources) {
    if (source.operation != operation.number) continue;
    source.state = how;
    records.emplace_back(std::move(source));
  }
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
  for (auto& record : records) {
    auto* source = std::get_if<source_record>(&record);
    if (source == nullptr || source->operation != state.last_operation) continue;
    source->who = who;
    source->since_unix_ms = at_unix_ms;
  }
}

void advance(cluster_state& state) {
  if (state.alarm && state.now < state.store_retry_at) return;
  for (const auto& [number, operation] : state.operations) {
    if (operation.state != operation_state::running || is_in_flight(state, number)) continue;
    if (operation.kind == operation_kind::drain) {
      advance_drain(state, operation);
    } else if (!operation.changes.empty()) {
      advance_many(state, operation);
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
    } else if (const auto* source = std::get_if<source_record>(&item)) {
      state.sources[source->version] = *source;
    } else if (const auto* schedule = std::get_if<schedule_record>(&item);
               schedule != nullptr && !done.rewrites_operations) {
      state.schedule = *schedule;
      state.batches_at_record = state.batches;
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
  for (const auto& [version, source] : state.sources) records.emplace_back(source);
  records.emplace_back(state.schedule);
  for (auto number : state.operations_to_erase) records.emplace_back(operation_erased{number});
  return records;
}

}  // namespace operations
}  // namespace troupe::coordinator
