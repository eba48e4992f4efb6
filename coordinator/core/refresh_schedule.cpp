#include "coordinator/core/refresh_schedule.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/bulk_commands.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/policy_runner.hpp"
#include "coordinator/core/repacking.hpp"

namespace troupe::coordinator::refresh_schedule {
namespace {

using std::chrono::seconds;

// "600 s", "600 s or 1000 batches"
std::string rhythm_of(const schedule_record& schedule) {
  std::string text;
  if (schedule.every.count() > 0)
    text = fmt::format("{} s", std::chrono::duration_cast<seconds>(schedule.every).count());
  if (schedule.every_batches > 0)
    text += fmt::format("{}{} batches", text.empty() ? "" : " or ", schedule.every_batches);
  return text;
}

bool is_set(const schedule_record& schedule) { return schedule.every.count() > 0 || schedule.every_batches > 0; }

// Since it was set or last done.
std::uint64_t batches_counted(const cluster_state& state) {
  return state.schedule.batches + state.batches - state.batches_at_record;
}

// Why it is due; empty: it is not.
std::string reason_due(const cluster_state& state) {
  const auto& schedule = state.schedule;
  auto batches = batches_counted(state);
  if (schedule.every_batches > 0 && batches >= schedule.every_batches) return fmt::format("{} batches", batches);
  bool is_time = schedule.every.count() > 0 && unix_ms(state) >= schedule.last_unix_ms + schedule.every.count();
  return is_time ? fmt::format("{} s", std::chrono::duration_cast<seconds>(schedule.every).count()) : std::string();
}

void begin(cluster_state& state, std::string because) {
  auto next = state.schedule;
  next.last_unix_ms = unix_ms(state);
  next.batches = 0;
  scheduled_run run;
  run.number = state.scheduled_runs.empty() ? 1 : state.scheduled_runs.back().number + 1;
  if (state.scheduled_runs.size() >= limits::scheduled_runs_kept_max) state.scheduled_runs.pop_front();
  run.at_unix_ms = next.last_unix_ms;
  run.because = std::move(because);
  state.scheduled_runs.push_back(std::move(run));
  state.out.folder_to_read = next.folder;
  state.persist({std::move(next)}, {});
}

void repack(cluster_state& state, scheduled_run& run) {
  auto plan = plan_repacking(policy_runner::look(state), state.schedule.moves_max);
  if (plan.experts.empty()) return;
  auto decided = bulk_commands::check(state, apply_placement{plan.experts, false});
  if (!decided || decided->records.empty()) return;  // as things are it cannot be done: at the next time, maybe
  run.moves = plan.moves;
  run.operation = decided->outcome.operation;
  run.imbalance_before = plan.imbalance_before;
  run.imbalance_after = plan.imbalance_after;
  auto why = fmt::format(
      "the fullest nodes of {} layers have {:.0f} % more of their rows than the mean; {:.0f} % "
      "afterwards",
      plan.layers, 100 * plan.imbalance_before, 100 * plan.imbalance_after);
  operations::sign(state, decided->records, "the schedule", unix_ms(state), why);
  state.persist(std::move(decided->records), {});
}

void note_cold(const cluster_state& state, scheduled_run& run) {
  for (const auto& [expert, entry] : state.cold) {
    run.stale += entry.age >= state.settings.policies.cold_stale_after ? 1 : 0;
    if (run.cold_named.size() < limits::scheduled_run_experts_max) run.cold_named.push_back(expert);
  }
  run.cold = static_cast<std::uint32_t>(state.cold.size());
}

void finish(cluster_state& state) {
  state.repack_due = false;
  if (state.scheduled_runs.empty()) return;
  auto& run = state.scheduled_runs.back();
  repack(state, run);
  note_cold(state, run);
  state.persist({run}, {});
}

// So that a restart does not begin to count anew.
void keep_count(cluster_state& state) {
  if (state.schedule.every_batches == 0 || state.now < state.batches_due) return;
  if (batches_counted(state) == state.schedule.batches) return;
  state.batches_due = state.now + limits::schedule_count_interval;
  auto counted = state.schedule;
  counted.batches = batches_counted(state);
  state.persist({std::move(counted)}, {});
}

}  // namespace

result<decision> check(const cluster_state& state, const schedule_refresh& what) {
  command_outcome outcome;
  outcome.verb = what.paused ? "pause" : "schedule";
  outcome.state = "done";
  auto schedule = state.schedule;
  if (what.paused) {
    if (!is_set(schedule)) return fail(errc::not_found, "nothing is scheduled; see: troupe refresh schedule --help");
    schedule.is_paused = true;
    schedule.batches = batches_counted(state);
    outcome.message = fmt::format("{} is not looked into until it is scheduled again", schedule.folder);
    return decision{std::move(outcome), {std::move(schedule)}};
  }
  if (what.every.count() == 0 && what.every_batches == 0) {
    outcome.message = "no refresh is scheduled any more";
    return decision{std::move(outcome), {schedule_record{}}};
  }
  if (what.every.count() != 0 && what.every < seconds(1))
    return fail(errc::invalid_request, "a folder is looked into at most once a second");
  if (what.folder.empty() || what.folder.front() != '/')
    return fail(errc::invalid_request, "a schedule needs the absolute path of a checkpoint folder: --from DIR");
  if (what.moves_max > limits::scheduled_moves_max)
    return fail(errc::invalid_request,
                fmt::format("{} moves at a time; at most {}", what.moves_max, limits::scheduled_moves_max));
  schedule = {what.every, what.folder, false, unix_ms(state), what.every_batches, what.moves_max};
  outcome.message =
      fmt::format("{} is looked into every {}, for the first time in that time", what.folder, rhythm_of(schedule));
  if (what.moves_max > 0) outcome.message += fmt::format("; each time at most {} replicas move", what.moves_max);
  return decision{std::move(outcome), {std::move(schedule)}};
}

void pass(cluster_state& state) {
  bool is_ready = state.settled && state.term_durable && !state.stopping && !state.alarm && state.in_flight.empty();
  if (!is_ready || !bulk_commands::check_alone(state)) return;  // due until the one that is under way has ended
  if (state.repack_due) return finish(state);
  if (!is_set(state.schedule) || state.schedule.is_paused) return;
  if (auto because = reason_due(state); !because.empty()) return begin(state, std::move(because));
  keep_count(state);
}

void refreshed(cluster_state& state, const result<command_outcome>& outcome) {
  if (state.scheduled_runs.empty()) return;
  state.scheduled_runs.back().refresh = !outcome ? outcome.error().message
                                        : outcome->operation.empty()
                                            ? outcome->message
                                            : fmt::format("{}, {}", outcome->operation, outcome->message);
  state.repack_due = true;
}

}  // namespace troupe::coordinator::refresh_schedule
