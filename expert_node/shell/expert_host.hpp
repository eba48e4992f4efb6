// The actor that owns one device: it decides what is in its slots and computes batches of waiting calls.
//
// Spawn it detached: handlers compute. The device is made in start_host and released in stop_host, both on the actor's
// thread. While a batch runs, calls wait in the mailbox (bounded by the call_ledger of the socket thread); run_next
// stands behind them, so that it finds all of them in the queue and merges them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <caf/fwd.hpp>

#include "common/http/metrics.hpp"
#include "expert_node/core/call_queue.hpp"
#include "expert_node/core/expert_statistics.hpp"
#include "expert_node/core/live_rows.hpp"
#include "expert_node/core/merged_batch.hpp"
#include "expert_node/core/slot_table.hpp"
#include "expert_node/core/term_fence.hpp"
#include "expert_node/shell/actors.hpp"

namespace troupe::expert {

struct arena_size {
  std::uint32_t slots{};
  std::size_t bytes_per_slot{};
};

struct expert_host_settings {
  std::function<result<std::unique_ptr<compute::device>>()> make_device;
  // How large the arena shall be on that device.
  std::function<result<arena_size>(const compute::device&)> size_arena;
  // compute::run_probe: does a freshly loaded slot compute what its bundle says?
  std::function<result<void>(compute::device&, slot_index, const compute::probe_sample&)> probe;
  std::shared_ptr<host_ports> ports;
  std::function<time_point()> now{[] { return std::chrono::steady_clock::now(); }};
  std::uint32_t batch_rows_max{limits::merged_batch_rows_max};
  std::chrono::milliseconds statistics_interval{limits::node_stats_interval};  // zero: only when asked
  std::shared_ptr<http::gauge> mailbox{std::make_shared<http::gauge>()};       // messages that wait; any thread reads
};

// invalid_request naming the setting that is missing.
[[nodiscard]] result<void> validate(const expert_host_settings& settings);

// Everything the host knows and does, without the actor around it. One thread.
class expert_host_state {
 public:
  static inline const char* name = "expert-host";

  void configure(expert_host_settings settings);
  [[nodiscard]] host_started start();
  // True: run_next is due.
  [[nodiscard]] bool accept(call_handle call);
  // Drops what has expired and computes one batch. True: run_next is due again.
  [[nodiscard]] bool run_once();
  void load(load_expert command);
  void free(const free_slot& command);
  void loaded(slot_loaded& message);
  void failed(const load_failed& message);
  void unloaded(const slot_unloaded& message);
  [[nodiscard]] pinned_expert pin(const pin_expert& message);
  void unpin(slot_index slot);
  void report_slots();
  void report_totals();
  void reset_totals() { statistics_ = {}; }
  [[nodiscard]] std::chrono::milliseconds statistics_interval() const { return settings_.statistics_interval; }
  void stop();

 private:
  struct converted_rows;

  void compute_batch(std::vector<call_handle>& calls);
  [[nodiscard]] result<void> run_on_device(std::vector<call_handle>& calls);
  void add_call(merged_batch& merged, expert_call& call, std::vector<converted_rows>& converted,
                const model::expert_shape& shape);
  void count(const merged_batch& merged, const std::vector<compute::group_report>& reports);
  void keep_rows(const merged_batch& merged, std::size_t hidden);
  // Beside a version that serves: how much they differ on rows that were asked for.
  [[nodiscard]] std::optional<compute::output_difference> compare(const slot_loaded& message);
  void release_pins(expert_call& call);
  void refuse(const call_handle& call, error reason);
  [[nodiscard]] static error reason_of_loss(const error& reported);
  void give_up(error reason);

  expert_host_settings settings_;
  std::unique_ptr<compute::device> device_;
  dtype type_{};               // of the device: asked for once, its full description costs as much as a call
  std::optional<error> lost_;  // set: there was a device, and calls are refused with this
  std::shared_ptr<device_memory> memory_;
  std::unique_ptr<slot_table> slots_;
  std::vector<std::shared_ptr<const model::bundle_layout>> layouts_;  // by slot; of ready slots
  call_queue queue_;
  expert_statistics statistics_;
  live_rows live_rows_;
  term_fence fence_;
  bool run_pending_{};
};

// `shared`: on the system's scheduler, for tests that decide which message is handled when.
enum class host_thread : std::uint8_t { own, shared };

[[nodiscard]] expert_host_actor spawn_expert_host(caf::actor_system& system, expert_host_settings settings,
                                                  host_thread thread = host_thread::own);

}  // namespace troupe::expert
