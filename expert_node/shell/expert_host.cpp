#include "expert_node/shell/expert_host.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <caf/actor_system.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

namespace troupe::expert {
namespace {

using std::chrono::duration;
using std::chrono::duration_cast;
using std::chrono::microseconds;

}  // namespace

// Rows of a call whose dtype is not the device's.
struct expert_host_state::converted_rows {
  expert_call* call{};
  std::vector<std::byte> input;
  std::vector<std::byte> output;
};

result<void> validate(const expert_host_settings& settings) {
  if (!settings.make_device) return fail(errc::invalid_request, "expert host: make_device is missing");
  if (!settings.size_arena) return fail(errc::invalid_request, "expert host: size_arena is missing");
  if (!settings.probe) return fail(errc::invalid_request, "expert host: probe is missing");
  if (settings.ports == nullptr) return fail(errc::invalid_request, "expert host: ports are missing");
  if (!settings.now) return fail(errc::invalid_request, "expert host: the clock is missing");
  if (settings.batch_rows_max == 0) return fail(errc::invalid_request, "expert host: batch_rows_max is 0");
  return {};
}

void expert_host_state::configure(expert_host_settings settings) {
  settings_ = std::move(settings);
  queue_ = call_queue{settings_.batch_rows_max};
}

host_started expert_host_state::start() {
  auto made = settings_.make_device();
  if (!made) return {fail(made.error())};
  auto size = settings_.size_arena(**made);
  if (!size) return {fail(size.error())};
  if (auto reserved = (*made)->reserve(size->slots, size->bytes_per_slot); !reserved) return {fail(reserved.error())};
  device_ = std::move(*made);
  memory_ = std::make_shared<device_memory>(*device_);
  slots_ = std::make_unique<slot_table>(size->slots);
  layouts_.resize(size->slots);
  const auto facts = device_->info();
  type_ = facts.type;
  return {host_facts{memory_, facts, size->slots, size->bytes_per_slot}};
}

// -- calls --------------------------------------------------------------------------------------------------------

bool expert_host_state::accept(call_handle call) {
  if (device_ == nullptr) {
    refuse(call, lost_.value_or(error{errc::unavailable, "this expert node has no device yet; retry later"}));
    return false;
  }
  bool any = false;
  call->pinned.assign(call->experts.size(), std::nullopt);
  for (std::size_t position = 0; position < call->experts.size(); ++position) {
    const auto& wanted = call->experts[position];
    auto slot = slots_->pin({{call->layer, wanted.index}, wanted.version});
    if (slot && layouts_[slot->value]->shape.hidden != call->hidden) {
      unpin(*slot);
      slot.reset();
    }
    call->pinned[position] = slot;
    if (slot) {
      any = true;
    } else {
      call->outcome.not_held.push_back(wanted.index);
    }
  }
  if (!call->outcome.not_held.empty()) ++statistics_.host.calls_not_held;
  if (!any) {
    refuse(call, {errc::unknown_expert, fmt::format("none of the {} experts of layer {} in this call is held here; "
                                                    "refresh the cluster map",
                                                    call->experts.size(), to_string(call->layer))});
    return false;
  }
  queue_.add(std::move(call));
  return !std::exchange(run_pending_, true);
}

bool expert_host_state::run_once() {
  run_pending_ = false;
  for (auto& call : queue_.take_expired(settings_.now())) {
    ++statistics_.host.calls_expired;
    release_pins(*call);
    refuse(call, {errc::timeout, "the deadline passed while the call waited for the device; allow more time"});
  }
  auto batch = queue_.take_batch();
  if (!batch.empty()) compute_batch(batch);
  run_pending_ = !queue_.empty();
  return run_pending_;
}

void expert_host_state::compute_batch(std::vector<call_handle>& calls) {
  auto begin = settings_.now();
  result<void> outcome;
  try {
    outcome = run_on_device(calls);
  } catch (const std::exception& e) {
    outcome = fail(errc::internal, fmt::format("computing a batch failed: {}; use another replica", e.what()));
  }
  auto end = settings_.now();
  const bool is_lost = device_->is_lost();
  if (!outcome && is_lost) outcome = fail(reason_of_loss(outcome.error()));
  ++statistics_.host.batches;
  statistics_.host.compute_seconds += duration<double>(end - begin).count();
  settings_.ports->batch_computed(duration<double>(end - begin).count());
  if (!outcome) spdlog::error("batch of {} calls failed: {}", calls.size(), outcome.error().message);
  for (auto& call : calls) {
    release_pins(*call);
    call->outcome.waited = duration_cast<microseconds>(begin - call->arrived);
    call->outcome.computed = duration_cast<microseconds>(end - begin);
    if (outcome) {
      ++statistics_.host.calls_computed;
      statistics_.host.rows_computed += call->rows;
    } else {
      ++statistics_.host.calls_failed;
      call->outcome.failed = outcome.error();
    }
    settings_.ports->answer(std::move(call));
  }
  if (!outcome && is_lost) give_up(outcome.error());
}

error expert_host_state::reason_of_loss(const error& reported) {
  return {errc::unavailable, fmt::format("the device of this node is lost: {}; use another replica", reported.message)};
}

// What waits is refused, so that its rows go to other replicas at once. The device goes while its thread is known.
void expert_host_state::give_up(error reason) {
  spdlog::critical("{}; this node serves nothing until it is started anew", reason.message);
  while (!queue_.empty()) {
    for (auto& call : queue_.take_batch()) {
      release_pins(*call);
      refuse(call, reason);
    }
  }
  lost_ = std::move(reason);
  memory_->detach();
  device_.reset();
  slots_.reset();
  layouts_.clear();
  report_slots();
}

result<void> expert_host_state::run_on_device(std::vector<call_handle>& calls) {
  // A layer has one shape; two versions of an expert that differ in it would be a refresh that must not have happened.
  const auto first = std::find_if(calls[0]->pinned.begin(), calls[0]->pinned.end(), [](auto& s) { return s; });
  const auto shape = layouts_[(*first)->value]->shape;
  merged_batch merged;
  std::vector<converted_rows> converted;
  converted.reserve(calls.size());
  for (auto& call : calls) add_call(merged, *call, converted, shape);
  auto work = merged.view(shape);
  std::vector<compute::group_report> reports(work.groups.size());
  if (auto done = device_->run(work, reports); !done) return done;
  for (auto& rows : converted) {
    convert(type_, rows.output.data(), rows.call->type, rows.call->output, std::size_t{rows.call->rows} * shape.hidden);
  }
  count(merged, reports);
  keep_rows(merged, shape.hidden);
  return {};
}

void expert_host_state::add_call(merged_batch& merged, expert_call& call, std::vector<converted_rows>& converted,
                                 const model::expert_shape& shape) {
  const auto* input = call.input;
  auto* output = call.output;
  if (call.type != type_) {
    const auto elements = std::size_t{call.rows} * call.hidden;
    auto& rows = converted.emplace_back();
    rows.call = &call;
    rows.input.resize(elements * bytes_per_element(type_));
    rows.output.resize(rows.input.size());
    convert(call.type, call.input, type_, rows.input.data(), elements);
    input = rows.input.data();
    output = rows.output.data();
  }
  auto number = merged.add_rows(input, output, call.rows);
  std::size_t next = 0;
  for (std::size_t position = 0; position < call.experts.size(); ++position) {
    const auto& wanted = call.experts[position];
    const auto& slot = call.pinned[position];
    if (slot && layouts_[slot->value]->shape == shape) {
      merged.add_expert(number, call, next, wanted.assignments, {call.layer, wanted.index}, *slot);
    } else if (slot) {
      call.outcome.not_held.push_back(wanted.index);
    }
    next += wanted.assignments;
  }
}

void expert_host_state::count(const merged_batch& merged, const std::vector<compute::group_report>& reports) {
  auto groups = merged.groups();
  for (std::size_t index = 0; index < groups.size(); ++index) {
    const auto& group = groups[index];
    statistics_.add(group.expert, {group.rows, group.calls, reports[index].seconds, reports[index].weighted_norm_sum});
    statistics_.host.assignments_computed += group.rows;
  }
}

void expert_host_state::keep_rows(const merged_batch& merged, std::size_t hidden) {
  const auto now = settings_.now();
  const auto bytes = hidden * bytes_per_element(type_);
  for (std::size_t g = 0; g < merged.groups().size(); ++g) {
    const auto& expert = merged.groups()[g].expert;
    if (live_rows_.wants(expert, now)) live_rows_.keep(expert, merged.first_row_of(g, bytes), now);
  }
}

void expert_host_state::release_pins(expert_call& call) {
  for (auto& slot : call.pinned) {
    if (slot) unpin(*slot);
    slot.reset();
  }
}

void expert_host_state::refuse(const call_handle& call, error reason) {
  call->outcome.waited = duration_cast<microseconds>(settings_.now() - call->arrived);
  call->outcome.failed = std::move(reason);
  settings_.ports->answer(call);
}

// -- slots --------------------------------------------------------------------------------------------------------

void expert_host_state::load(load_expert command) {
  if (slots_ == nullptr) return;
  const auto& job = command.job;
  if (!fence_.admit(command.term)) {
    spdlog::warn("load of {} refused: term {} is older than {}", to_string(job.content.expert), command.term.value,
                 fence_.newest().value);
    return;
  }
  auto step = slots_->begin_load(job.slot, job.content);
  if (!step) {
    spdlog::warn("load of {} refused: {}", to_string(job.content.expert), step.error().message);
  } else if (*step == slot_table::load_step::start) {
    settings_.ports->start_load(std::move(command.job));
  }
  report_slots();
}

void expert_host_state::free(const free_slot& command) {
  if (slots_ == nullptr) return;
  if (!fence_.admit(command.term)) {
    spdlog::warn("free of slot {} refused: term {} is older than {}", command.slot.value, command.term.value,
                 fence_.newest().value);
    return;
  }
  auto step = slots_->begin_free(command.slot, command.content);
  if (!step) {
    spdlog::warn("free of slot {} refused: {}", command.slot.value, step.error().message);
  } else if (*step == slot_table::free_step::unload_now) {
    settings_.ports->start_unload(command.slot);
  }
  report_slots();
}

void expert_host_state::loaded(slot_loaded& message) {
  if (slots_ == nullptr) return;
  result<void> probed;
  try {
    if (message.sample != nullptr) probed = settings_.probe(*device_, message.slot, *message.sample);
  } catch (const std::exception& e) {
    probed = fail(errc::internal, fmt::format("probing slot {} failed: {}", message.slot.value, e.what()));
  }
  if (!probed) {
    spdlog::error("expert {} is not served: {}", to_string(message.layout->id), probed.error().message);
    if (device_->is_lost()) return give_up(reason_of_loss(probed.error()));
    // Whether it was freed meanwhile makes no difference: slot_unloaded comes in both cases.
    static_cast<void>(slots_->fail_load(message.slot, probed.error(), settings_.now()));
    settings_.ports->start_unload(message.slot);
    return report_slots();
  }
  layouts_[message.slot.value] = message.layout;
  message.facts.difference = compare(message);
  if (!slots_->finish_load(message.slot, message.facts)) settings_.ports->start_unload(message.slot);
  report_slots();
}

std::optional<compute::output_difference> expert_host_state::compare(const slot_loaded& message) {
  const auto* loading = std::get_if<slot_loading>(&slots_->state(message.slot));
  if (loading == nullptr) return std::nullopt;  // freed meanwhile
  const auto rows = live_rows_.of(loading->content.expert);
  const auto served = slots_->other_version(loading->content);
  if (rows.empty() || !served || layouts_[served->value]->shape != message.layout->shape) return std::nullopt;
  try {
    auto found = compute::compare_slots(*device_, message.layout->shape, *served, message.slot, rows);
    if (found) return *found;
    spdlog::warn("versions of expert {} could not be compared: {}", to_string(message.layout->id),
                 found.error().message);
  } catch (const std::exception& e) {
    spdlog::warn("versions of expert {} could not be compared: {}", to_string(message.layout->id), e.what());
  }
  return std::nullopt;
}

void expert_host_state::failed(const load_failed& message) {
  spdlog::error("slot {}: {}", message.slot.value, message.reason.message);
  if (slots_ == nullptr) return;
  if (device_->is_lost()) return give_up(reason_of_loss(message.reason));
  if (!slots_->fail_load(message.slot, message.reason, settings_.now())) slots_->finish_free(message.slot);
  report_slots();
}

void expert_host_state::unloaded(const slot_unloaded& message) {
  if (slots_ == nullptr) return;
  const auto* freeing = std::get_if<slot_freeing>(&slots_->state(message.slot));
  if (freeing == nullptr || freeing->users != 0) return;  // the end of a load that failed its probe
  layouts_[message.slot.value].reset();
  if (!slots_->other_version(freeing->content)) live_rows_.forget(freeing->content.expert);
  slots_->finish_free(message.slot);
  report_slots();
}

pinned_expert expert_host_state::pin(const pin_expert& message) {
  if (slots_ == nullptr) return {};
  auto slot = slots_->pin(message.content);
  if (!slot) return {};
  return {slot, layouts_[slot->value]};
}

void expert_host_state::unpin(slot_index slot) {
  if (slots_ != nullptr && slots_->unpin(slot)) settings_.ports->start_unload(slot);
}

void expert_host_state::report_slots() {
  if (lost_) return settings_.ports->device_lost(lost_->message);
  if (slots_ != nullptr) settings_.ports->inventory(slots_->inventory());
}

void expert_host_state::report_totals() {
  if (slots_ == nullptr) return;
  settings_.ports->statistics(
      {statistics_.take_changed(), statistics_.host, queue_.rows(), slots_->used(), slots_->resident_bytes()});
}

void expert_host_state::stop() {
  while (!queue_.empty()) static_cast<void>(run_once());
  if (memory_ != nullptr) memory_->detach();
  device_.reset();
}

// -- the actor ----------------------------------------------------------------------------------------------------

namespace {

using host_self = expert_host_actor::stateful_pointer<expert_host_state>;

expert_host_actor::behavior_type expert_host(host_self self, expert_host_settings settings) {
  auto& host = self->state;
  const auto mailbox = settings.mailbox;
  host.configure(std::move(settings));
  return {
      [self, &host](start_host) {
        if (host.statistics_interval().count() > 0) self->send(self, report_statistics{});
        return host.start();
      },
      [self, &host](serve_call& message) {
        if (host.accept(std::move(message.call))) self->send(self, run_next{});
      },
      [self, &host, mailbox](run_next) {
        mailbox->set(static_cast<double>(self->mailbox().size()));
        if (host.run_once()) self->send(self, run_next{});
      },
      [&host](load_expert& command) { host.load(std::move(command)); },
      [&host](const free_slot& command) { host.free(command); },
      [&host](slot_loaded& message) { host.loaded(message); },
      [&host](const load_failed& message) { host.failed(message); },
      [&host](const slot_unloaded& message) { host.unloaded(message); },
      [&host](const pin_expert& message) { return host.pin(message); },
      [&host](const unpin_slot& message) { host.unpin(message.slot); },
      [&host](report_inventory) { host.report_slots(); },
      [self, &host, mailbox](report_statistics) {
        mailbox->set(static_cast<double>(self->mailbox().size()));
        host.report_totals();
        if (host.statistics_interval().count() > 0) {
          self->delayed_send(self, host.statistics_interval(), report_statistics{});
        }
      },
      [&host](reset_statistics) { host.reset_totals(); },
      [self, &host](stop_host) {
        host.stop();
        self->quit();
        return host_stopped{};
      },
  };
}

}  // namespace

expert_host_actor spawn_expert_host(caf::actor_system& system, expert_host_settings settings, host_thread thread) {
  if (thread == host_thread::shared) return system.spawn(expert_host, std::move(settings));
  return system.spawn<caf::detached>(expert_host, std::move(settings));
}

}  // namespace troupe::expert
