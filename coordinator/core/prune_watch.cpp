#include "coordinator/core/prune_watch.hpp"

#include <algorithm>

#include "common/limits.hpp"

namespace troupe::coordinator::prune_watch {
namespace {

using std::chrono::milliseconds;

milliseconds window_of(const cluster_state& state) {
  return std::chrono::duration_cast<milliseconds>(state.settings.policies.prune_window);
}

// A clock that went back says nothing about how long ago it was.
milliseconds passed_since(const cluster_state& state, std::int64_t then_unix_ms) {
  return milliseconds(std::max<std::int64_t>(unix_ms(state) - then_unix_ms, 0));
}

bool goes_on(const cluster_state& state, const watch_record& record) {
  auto gap = passed_since(state, record.at_unix_ms);
  return record.window == window_of(state) && gap <= record.window / limits::prune_gap_share;
}

void restore(cluster_state& state, const watch_record& record) {
  auto as_of = state.now - passed_since(state, record.at_unix_ms);
  for (const auto& seen : record.experts) {
    const expert_id id{record.layer, seen.index};
    if (state.find(id) == nullptr) continue;
    state.present_since[id] = state.now - passed_since(state, seen.since_unix_ms);
    state.long_traffic.restore(id, seen.rows, as_of);
    state.long_norms.restore(id, seen.norms, as_of);
  }
}

}  // namespace

void restore(cluster_state& state, const durable_state& durable) {
  if (!state.settings.policies.prunes) return;
  bool any = false;
  for (const auto& record : durable.watches) {
    if (!goes_on(state, record)) continue;
    restore(state, record);
    any = true;
  }
  if (!any) return;
  for (const auto& node : durable.nodes) {
    state.long_traffic.begin_with_next_report(node.node, node.incarnation);
    state.long_norms.begin_with_next_report(node.node, node.incarnation);
  }
}

void pass(cluster_state& state) {
  if (state.now < state.watch_due) return;
  state.watch_due = state.now + state.settings.policies.prune_window / limits::prune_watch_records;
  std::vector<store_record> records;
  watch_record record;
  const auto add = [&] {
    if (!record.experts.empty()) records.emplace_back(std::move(record));
  };
  for (const auto& [id, since] : state.present_since) {
    if (record.experts.empty() || record.layer != id.layer) {
      add();
      record = {id.layer, unix_ms(state), window_of(state), {}};
    }
    auto ago = std::chrono::duration_cast<milliseconds>(state.now - since);
    record.experts.push_back({id.index, unix_ms(state) - ago.count(), state.long_traffic.parts_of(id, state.now),
                              state.long_norms.parts_of(id, state.now)});
  }
  add();
  if (!records.empty()) state.persist(std::move(records), {});
}

}  // namespace troupe::coordinator::prune_watch
