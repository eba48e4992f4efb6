#include "coordinator/shell/coordinator_actor.hpp"

#include <caf/actor_system.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/versions.hpp"
#include "coordinator/shell/placement_documents.hpp"

namespace troupe::coordinator {
namespace {

constexpr std::chrono::seconds view_interval{1};
constexpr std::chrono::minutes folder_read_timeout{30};

}  // namespace

void public_view_box::set(public_view view) {
  auto fresh = std::make_shared<const public_view>(std::move(view));
  std::lock_guard lock(mutex_);
  view_ = std::move(fresh);
}

std::shared_ptr<const public_view> public_view_box::get() const {
  std::lock_guard lock(mutex_);
  return view_;
}

result<void> validate(const coordinator_settings& settings) {
  if (!settings.machine) return fail(errc::invalid_request, "coordinator_settings.machine is missing");
  if (!settings.store) return fail(errc::invalid_request, "coordinator_settings.store is missing");
  if (!settings.ports) return fail(errc::invalid_request, "coordinator_settings.ports is missing");
  if (settings.tick_interval.count() <= 0) {
    return fail(errc::invalid_request, "coordinator_settings.tick_interval is not positive");
  }
  return {};
}

void coordinator_actor_state::configure(coordinator_settings settings) {
  settings_ = std::move(settings);
  collect();
}

void coordinator_actor_state::handle(const event& what) {
  settings_.machine->step(what, settings_.now());
  collect();
  pass_due_ = true;
}

void coordinator_actor_state::pass() {
  pass_pending_ = false;
  settings_.machine->tick(settings_.now());
  collect();
}

bool coordinator_actor_state::take_pass_due() {
  bool due = std::exchange(pass_due_, false) && !pass_pending_;
  if (due) pass_pending_ = true;
  return due;
}

void coordinator_actor_state::collect() {
  auto out = settings_.machine->take_output();
  if (!out.persist.empty()) {
    auto ticket = out.ticket;
    to_write_.push_back({ticket, std::move(out.persist)});
    waiting_.emplace(ticket, std::move(out));
  } else if (!out.empty()) {
    perform(std::move(out));
  }
  publish_view();
}

std::optional<write_records> coordinator_actor_state::take_write() {
  if (to_write_.empty()) return std::nullopt;
  auto first = std::move(to_write_.front());
  to_write_.erase(to_write_.begin());
  return first;
}

void coordinator_actor_state::written(const records_written& result) {
  auto found = waiting_.extract(result.ticket);
  if (!found.empty() && !result.failure) perform(std::move(found.mapped()));
  handle(persist_result{result.ticket, result.failure});
}

std::optional<admin_command> coordinator_actor_state::take_in(const event& what) {
  const auto* command = std::get_if<admin_command>(&what);
  bool is_refresh = command != nullptr && std::holds_alternative<refresh_weights>(command->what);
  if (!is_refresh || settings_.machine->state().commands.contains(command->command_id)) {
    handle(what);
    return std::nullopt;
  }
  auto made = *command;
  auto& found = std::get<refresh_weights>(made.what).found;
  if (!reading_.empty()) {
    bool is_same = reading_ == command->command_id;
    found = fail(is_same ? errc::in_progress : errc::conflict, is_same ? "the folder is being read; repeat the command"
                                                                       : "another folder is being read; wait for it");
  } else if (!settings_.folders) {
    found = fail(errc::unavailable, "this coordinator reads no folders");
  } else {
    reading_ = command->command_id;
    return made;
  }
  handle(made);
  return std::nullopt;
}

void coordinator_actor_state::finish_reading(admin_command command, result<std::vector<found_expert>> found) {
  reading_.clear();
  std::get<refresh_weights>(command.what).found = std::move(found);
  handle(command);
}

std::optional<admin_command> coordinator_actor_state::take_scheduled() {
  auto folder = std::exchange(folder_to_read_, "");
  if (folder.empty()) return std::nullopt;
  auto now = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch());
  admin_command command{"", fmt::format("schedule-{}", now.count()), refresh_weights{std::move(folder), {}, false}};
  command.who = "the schedule";
  command.at_unix_ms = now.count();
  return take_in(command);
}

void coordinator_actor_state::perform(output out) {
  if (!out.folder_to_read.empty()) folder_to_read_ = std::move(out.folder_to_read);
  for (auto& message : out.messages) settings_.ports->send(std::move(message));
  if (out.published) settings_.ports->publish(*std::move(out.published));
  for (auto& reply : out.replies) settings_.ports->reply(std::move(reply));
  for (auto& what : out.events) {
    settings_.ports->log(what);
    events_.add(std::move(what), std::chrono::system_clock::now());
  }
}

void coordinator_actor_state::answer(const ask& question) {
  const auto& state = settings_.machine->state();
  auto context = settings_.documents;
  // As it was at state.now: what happened at a time keeps that time, however long ago the last pass was.
  auto since = std::chrono::duration_cast<std::chrono::system_clock::duration>(settings_.now() - state.now);
  context.wall_clock = std::chrono::system_clock::now() - since;
  result<std::string> document = std::string();
  switch (question.kind) {
    case question_kind::status:
      document = status_document(state, context);
      break;
    case question_kind::nodes:
      document = nodes_document(state, context, question.node);
      break;
    case question_kind::experts:
      document = experts_document(state, context, question.layer);
      break;
    case question_kind::events:
      document = events_document(events_, question.events_after);
      break;
    case question_kind::operations:
      document = operations_document(state);
      break;
    case question_kind::history:
      document = history_document(state);
      break;
    case question_kind::refreshes:
      document = refreshes_document(state);
      break;
    case question_kind::explanation:
      document = explanation_document(state, question.expert);
      break;
  }
  settings_.ports->answer(question.from, std::move(document));
}

void coordinator_actor_state::publish_view() {
  const auto& state = settings_.machine->state();
  member_view members{state.term, state.published->epoch, {}};
  if (state.term_durable) members.members = settings_.machine->members();
  if (members != members_) {
    members_ = members;
    settings_.ports->set_members(std::move(members));
  }
  auto now = settings_.now();
  bool due = state.published->epoch != shown_epoch_ || now - shown_ >= view_interval;
  if (!settings_.view || !due) return;
  shown_ = now;
  shown_epoch_ = state.published->epoch;
  public_view view;
  view.map = state.published;
  view.state = cluster_state_name(state);
  for (const auto& [node_name, node] : state.nodes) {
    if (!node.removed) {
      ++view.nodes_by_state[std::string(to_string(shown_state(node)))];
      bool is_up = is_member(node) && !std::holds_alternative<node_suspect>(node.life);
      view.peers.emplace(node_name, peer_view{is_up, node.missed.total(), node.restarts});
    }
    for (const auto& [slot, entry] : node.slots) view.pinned_replicas += !versions::pinned_by(state, entry).empty();
  }
  view.loads_done = state.loads_done;
  view.loads_failed = state.loads_failed;
  view.nodes_lost = state.nodes_lost;
  view.totals = state.totals;
  view.mailboxes = {{name, static_cast<double>(std::exchange(mailbox_, 0))},
                    {"store", static_cast<double>(waiting_.size())},
                    {"folder", reading_.empty() ? 0.0 : 1.0}};
  view.unroutable = unroutable_experts(state);
  view.operations_running = operations_running(state);
  for (const auto& expert : state.experts) view.cold_experts.try_emplace(expert.id.layer, 0);
  for (const auto& [expert, entry] : state.cold) ++view.cold_experts[expert.layer];
  view.store_ok = !state.alarm;
  settings_.view->set(std::move(view));
}

// -- the actor
// ----------------------------------------------------------------------------------------------------------

namespace {

using coordinator_self = coordinator_actor::stateful_pointer<coordinator_actor_state>;

void read_folder_of(coordinator_self self, admin_command command);

// Hands records to the store, and asks for a pass behind everything that waits in the mailbox already.
void continue_work(coordinator_self self) {
  auto& state = self->state;
  state.note_mailbox(self->mailbox().size());
  while (auto records = state.take_write()) {
    auto ticket = records->ticket;
    self->request(state.settings().store, limits::store_write_timeout, *std::move(records))
        .then(
            [self](const records_written& result) {
              self->state.written(result);
              continue_work(self);
            },
            [self, ticket](const caf::error&) {
              self->state.written({ticket, error{errc::internal, "the state was not written in time; check the disk"}});
              continue_work(self);
            });
  }
  if (auto refresh = state.take_scheduled()) read_folder_of(self, *std::move(refresh));
  if (state.take_pass_due()) self->send(self, make_pass{});
}

void read_folder_of(coordinator_self self, admin_command command) {
  auto folder = std::get<refresh_weights>(command.what).folder;
  const auto finish = [self, command = std::move(command)](result<std::vector<found_expert>> found) {
    self->state.finish_reading(command, std::move(found));
    continue_work(self);
  };
  self->request(self->state.settings().folders, folder_read_timeout, read_folder{folder})
      .then([finish](const folder_read& read) { finish(read.found); },
            [finish, folder](const caf::error&) {
              finish(fail(errc::timeout, fmt::format("{} could not be read in time; check its disk", folder)));
            });
}

coordinator_actor::behavior_type coordinator_behavior(coordinator_self self, coordinator_settings settings) {
  self->state.configure(std::move(settings));
  continue_work(self);
  self->delayed_send(self, self->state.settings().tick_interval, tick_now{});
  return {
      [self](const core_event& message) {
        if (auto refresh = self->state.take_in(message.what)) read_folder_of(self, *std::move(refresh));
        continue_work(self);
      },
      [self](const ask& question) { self->state.answer(question); },
      [self](make_pass) {
        self->state.pass();
        continue_work(self);
      },
      [self](tick_now) {
        self->state.pass();
        continue_work(self);
        self->delayed_send(self, self->state.settings().tick_interval, tick_now{});
      },
      [self](stop_coordinator) {
        self->quit();
        return stopped{};
      },
  };
}

}  // namespace

coordinator_actor spawn_coordinator_actor(caf::actor_system& system, coordinator_settings settings) {
  return system.spawn(coordinator_behavior, std::move(settings));
}

}  // namespace troupe::coordinator
