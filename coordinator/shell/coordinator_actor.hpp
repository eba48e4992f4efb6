// The actor around the cluster state machine: carries events in and does what the output says, in its order. What has
// to be on disk first waits for the store; everything else is done at once.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include <caf/fwd.hpp>

#include "coordinator/core/cluster_state_machine.hpp"
#include "coordinator/shell/actors.hpp"
#include "coordinator/shell/documents.hpp"
#include "coordinator/shell/event_log.hpp"

namespace troupe::coordinator {

struct peer_view {
  bool is_up{};
  std::uint64_t heartbeats_missed{};
  std::uint64_t restarts{};
};

// What other threads (HTTP) may see, renewed by the actor about once a second and at each epoch.
struct public_view {
  std::shared_ptr<const cluster_map> map;
  std::string state;
  std::vector<std::string> nodes_not_serving;
  std::map<std::string, std::uint32_t> nodes_by_state;
  std::uint64_t loads_done{};
  std::uint64_t loads_failed{};
  std::uint64_t nodes_lost{};
  operation_totals totals;
  std::map<node_id, peer_view> peers;                     // all but removed ones
  std::vector<std::pair<std::string, double>> mailboxes;  // by actor: the most messages that waited for it lately
  std::uint32_t unroutable{};
  std::uint32_t operations_running{};
  std::uint32_t pinned_replicas{};                 // of versions that are served no more, kept for texts
  std::map<layer_id, std::uint32_t> cold_experts;  // of every layer
  bool store_ok{true};
};

// Any thread.
class public_view_box {
 public:
  void set(public_view view);
  [[nodiscard]] std::shared_ptr<const public_view> get() const;

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const public_view> view_{std::make_shared<public_view>()};
};

struct coordinator_settings {
  std::shared_ptr<cluster_state_machine> machine;  // its first output not yet taken
  store_actor store;
  folder_actor folders;  // empty: refreshes are refused
  std::shared_ptr<coordinator_ports> ports;
  std::shared_ptr<public_view_box> view;  // may be empty
  document_context documents;
  std::function<time_point()> now{[] { return std::chrono::steady_clock::now(); }};
  std::chrono::milliseconds tick_interval{50};
};

// invalid_request naming the setting that is missing.
[[nodiscard]] result<void> validate(const coordinator_settings& settings);

// Everything the actor knows and does, without the actor around it. One thread.
class coordinator_actor_state {
 public:
  static inline const char* name = "coordinator";

  void configure(coordinator_settings settings);
  void handle(const event& what);
  void pass();
  void answer(const ask& question);
  // The records that must be written before the rest of their output is done; empty ticket: none now.
  [[nodiscard]] std::optional<write_records> take_write();
  void written(const records_written& result);
  // Handles it, unless it is a refresh whose folder has to be read first: that one is given back.
  [[nodiscard]] std::optional<admin_command> take_in(const event& what);
  // The command, with what was found in its folder.
  void finish_reading(admin_command command, result<std::vector<found_expert>> found);
  // A scheduled refresh whose folder is to be read now.
  [[nodiscard]] std::optional<admin_command> take_scheduled();
  // True once, after something arrived that a pass should look at soon.
  [[nodiscard]] bool take_pass_due();
  // So many messages wait for the actor now.
  void note_mailbox(std::size_t waiting) { mailbox_ = std::max(mailbox_, waiting); }
  [[nodiscard]] const coordinator_settings& settings() const { return settings_; }

 private:
  void collect();
  void perform(output out);
  void publish_view();

  coordinator_settings settings_;
  event_log events_;
  std::map<std::uint64_t, output> waiting_;  // for their records, by ticket
  std::vector<write_records> to_write_;
  member_view members_;
  epoch_number shown_epoch_;
  time_point shown_{};
  std::string reading_;         // id of the command whose folder is being read; empty: none
  std::string folder_to_read_;  // by the schedule; empty: none
  std::size_t mailbox_{};       // the most that was noted since the view was renewed
  bool pass_due_{};
  bool pass_pending_{};
};

[[nodiscard]] coordinator_actor spawn_coordinator_actor(caf::actor_system& system, coordinator_settings settings);

}  // namespace troupe::coordinator
