// A coordinator core with a store that always works, and nodes that are driven by hand: tests say who joins, reports
// and acknowledges, and look at what comes out.
#pragma once

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/limits.hpp"
#include "coordinator/core/cluster_state_machine.hpp"

namespace troupe::coordinator::testing {

using namespace std::chrono_literals;

inline cluster_settings settings_of(std::uint32_t experts, std::uint32_t replication = 1, std::uint32_t nodes = 1) {
  cluster_settings settings{"here", "model-a", replication, nodes, {}};
  for (std::uint32_t e = 0; e < experts; ++e) settings.experts.push_back({{layer_id::of(0), e}, 100});
  return settings;
}

inline sha256_digest digest_of(std::uint32_t expert) { return sha256_digest{static_cast<std::byte>(expert + 1)}; }

class core_harness {
 public:
  explicit core_harness(cluster_settings settings, durable_state durable = {})
      : settings_(std::move(settings)), disk_(std::move(durable)) {
    auto made = cluster_state_machine::create(settings_, disk_, now);
    if (!made) throw std::runtime_error(made.error().message);
    machine_ = std::make_unique<cluster_state_machine>(std::move(*made));
    settle();
  }

  // -- time

  // Lets time pass; all nodes in `beating` are heard meanwhile.
  void pass(std::chrono::milliseconds length) {
    for (auto end = now + length; now < end;) {
      now += 50ms;
      if ((now - time_point{}) / 50ms % 4 == 0) {
        for (const auto& [name, incarnation] : beating) step(heartbeat{{name}, {incarnation}, {}});
      }
      machine_->tick(now);
      settle();
    }
  }
  void step(const event& what) {
    machine_->step(what, now);
    settle();
  }

  // -- nodes

  static node_facts facts_of(const std::string& name, std::uint64_t incarnation, node_role role, std::uint32_t slots) {
    node_facts facts;
    facts.role = role;
    facts.pid = incarnation;
    facts.data_address = "ipc:///" + name + ".data.ipc";
    facts.machine_id = "machine-one";
    facts.dtype = "f32";
    facts.slots_total = slots;
    facts.model_fingerprint = "model-a";
    return facts;
  }
  void join(const std::string& name, std::uint64_t incarnation = 1, std::uint32_t slots = 8,
            node_role role = node_role::expert) {
    join_with({name + "#" + std::to_string(incarnation),
               "here",
               {name},
               {incarnation},
               facts_of(name, incarnation, role, slots)});
  }
  void join_with(const join_request& request) { step(request); }
  // Joins, is heard and reports itself empty.
  void add_expert_node(const std::string& name, std::uint32_t slots = 8, std::uint64_t incarnation = 1) {
    join(name, incarnation, slots);
    beating[name] = incarnation;
    report(name, {});
  }
  void add_router(const std::string& name) {
    join(name, 1, 0, node_role::router);
    beating[name] = 1;
    acknowledge(name);
  }
  void report(const std::string& name, std::vector<slot_report> slots) {
    held[name] = slots;
    step(inventory_report{{name}, {beating[name]}, ++sequence_, state().term, std::move(slots)});
  }
  void report_loss(const std::string& name, const std::string& reason) {
    held[name].clear();
    step(inventory_report{{name}, {beating[name]}, ++sequence_, state().term, {}, reason});
  }
  // The node obeys every order it got, at once and without fault.
  bool obey(const std::string& name) {
    bool any = false;
    auto& slots = held[name];
    for (auto& message : take_messages(name)) {
      if (const auto* load = std::get_if<load_order>(&message.what)) {
        auto digest = load->folder.empty() ? digest_of(load->expert.index) : *load->digest;
        slots.push_back({load->slot, load->expert, load->version, reported_slot_state::ready, digest, 100, 110, "",
                         load->folder.empty() ? std::nullopt : difference});
        any = true;
      } else if (const auto* free = std::get_if<free_order>(&message.what)) {
        std::erase_if(slots, [&](const auto& s) { return s.slot == free->slot; });
        any = true;
      }
    }
    if (any) report(name, slots);
    return any;
  }
  // With texts that are pinned to the versions of the map in `pinned_to`, where the router has any.
  void acknowledge(const std::string& router) {
    auto pinned = pinned_to.find(router);
    auto uses_since = pinned == pinned_to.end() ? epoch_number{} : pinned->second;
    step(map_acknowledged{{router}, {beating[router]}, state().term, state().published->epoch, uses_since});
  }
  // Everybody obeys and acknowledges until nothing happens any more.
  void converge(std::chrono::milliseconds bound = 60s) {
    int quiet = 0;
    for (auto end = now + bound; now < end && quiet < 60;) {
      auto epoch = state().published->epoch;
      pass(50ms);
      bool any = false;
      for (const auto& [name, incarnation] : std::map(beating)) {
        auto at = state().nodes.find({name});
        if (at == state().nodes.end()) continue;
        if (at->second.is_expert()) any = obey(name) || any;
        if (!at->second.is_expert()) acknowledge(name);
      }
      quiet = any || epoch != state().published->epoch ? 0 : quiet + 1;
    }
  }
  void stop_beating(const std::string& name) { beating.erase(name); }

  // -- what came out

  [[nodiscard]] const cluster_state& state() const { return machine_->state(); }
  [[nodiscard]] std::vector<node_message> take_messages(const std::string& name) {
    std::vector<node_message> mine;
    std::erase_if(messages, [&](auto& message) {
      if (message.node.value != name) return false;
      mine.push_back(std::move(message));
      return true;
    });
    return mine;
  }
  // The newest answer to a join of that name; fails the test when there is none.
  [[nodiscard]] join_reply reply_to_join(const std::string& name) {
    std::optional<join_reply> found;
    for (auto& message : take_messages(name)) {
      if (auto* reply = std::get_if<join_reply>(&message.what)) found = *reply;
    }
    EXPECT_TRUE(found) << "no answer to the join of " << name;
    return found.value_or(join_reply{});
  }
  [[nodiscard]] result<command_outcome> command(decltype(admin_command::what) what, const std::string& id = "") {
    replies.clear();
    step(admin_command{"cli", id.empty() ? fmt::format("id-{}", ++last_id_) : id, std::move(what)});
    if (replies.empty()) return fail(errc::timeout, "no answer");
    return replies.back().outcome;
  }
  // "0: expert-0 | 1: expert-1": who holds what by the published map.
  [[nodiscard]] std::string placement() const {
    std::string text;
    for (const auto& expert : state().published->experts) {
      if (!text.empty()) text += " | ";
      text += std::to_string(expert.id.index) + ":";
      for (const auto& replica : expert.replicas) text += " " + state().published->nodes[replica.node].name.value;
    }
    return text;
  }
  [[nodiscard]] std::size_t replicas_on(const std::string& name) const {
    std::size_t count = 0;
    for (const auto& expert : state().published->experts) {
      for (const auto& replica : expert.replicas) {
        count += state().published->nodes[replica.node].name.value == name ? 1 : 0;
      }
    }
    return count;
  }
  [[nodiscard]] node_state state_of(const std::string& name) const { return shown_state(state().nodes.at({name})); }
  [[nodiscard]] const durable_state& disk() const { return disk_; }

  time_point now{std::chrono::hours(10)};
  std::map<std::string, std::uint64_t> beating;
  std::map<std::string, epoch_number> pinned_to;  // by router
  std::map<std::string, std::vector<slot_report>> held;
  std::vector<node_message> messages;
  std::vector<admin_reply> replies;
  std::vector<operator_event> events;
  std::optional<output_difference> difference;  // that nodes find when they load from another folder
  std::vector<std::string> folders_read;
  std::optional<error> store_failure;  // of every write from now on
  bool is_disk_slow{};                 // writes wait for write_next
  std::deque<output> unwritten;

  void write_next() {
    auto out = std::move(unwritten.front());
    unwritten.pop_front();
    carry_out(std::move(out));
    settle();
  }

 private:
  void settle() {
    while (true) {
      auto out = machine_->take_output();
      if (out.empty()) return;
      if (is_disk_slow && !out.persist.empty()) {
        unwritten.push_back(std::move(out));
      } else {
        carry_out(std::move(out));
      }
    }
  }
  void carry_out(output out) {
    bool written = out.persist.empty();
    if (!out.persist.empty() && !store_failure) {
      for (const auto& item : out.persist) save(item);
      written = true;
    }
    if (written) {
      std::ranges::move(out.messages, std::back_inserter(messages));
      std::ranges::move(out.replies, std::back_inserter(replies));
      std::ranges::move(out.events, std::back_inserter(events));
      if (!out.folder_to_read.empty()) folders_read.push_back(out.folder_to_read);
    }
    if (!out.persist.empty()) machine_->step(persist_result{out.ticket, written ? std::nullopt : store_failure}, now);
  }
  template <class Rows, class Row, class Same>
  static void put(Rows& rows, const Row& row, Same same) {
    auto at = std::ranges::find_if(rows, same);
    at == rows.end() ? rows.push_back(row) : void(*at = row);
  }
  void save(const store_record& item) {
    std::visit(
        overloaded{
            [&](const cluster_record& r) { disk_.cluster = r; },
            [&](const node_record& r) { put(disk_.nodes, r, [&](auto& x) { return x.node == r.node; }); },
            [&](const expert_record& r) { put(disk_.experts, r, [&](auto& x) { return x.expert == r.expert; }); },
            [&](const command_record& r) {
              put(disk_.commands, r, [&](auto& x) { return x.command_id == r.command_id; });
            },
            [&](const wish_record& r) { put(disk_.wishes, r, [&](auto& x) { return x.expert == r.expert; }); },
            [&](const operation_record& r) { put(disk_.operations, r, [&](auto& x) { return x.number == r.number; }); },
            [&](const operation_erased& r) {
              std::erase_if(disk_.operations, [&](auto& x) { return x.number == r.number; });
            },
            [&](const source_record& r) { put(disk_.sources, r, [&](auto& x) { return x.version == r.version; }); },
            [&](const schedule_record& r) { disk_.schedule = r; },
            [&](const scheduled_run& r) { put(disk_.runs, r, [&](auto& x) { return x.number == r.number; }); },
            [&](const watch_record& r) { put(disk_.watches, r, [&](auto& x) { return x.layer == r.layer; }); },
            [&](const epoch_record& r) { put(disk_.epochs, r, [&](auto& x) { return x.what.epoch == r.what.epoch; }); },
            [&](const node_erased& r) { std::erase_if(disk_.nodes, [&](auto& x) { return x.node == r.node; }); },
            [&](const command_erased& r) {
              std::erase_if(disk_.commands, [&](auto& x) { return x.command_id == r.command_id; });
            },
        },
        item);
  }

  cluster_settings settings_;
  std::unique_ptr<cluster_state_machine> machine_;
  durable_state disk_;
  std::uint64_t sequence_{};
  int last_id_{};
};

}  // namespace troupe::coordinator::testing
