// The heart of the router: turns a routed request into one call per host, and answers into sums.
//
// Pure and single-threaded: requests, maps, link states, answers and the time come in as calls; what is to be sent and
// what is finished goes out through take_output(). Every accepted request ends in exactly one finished_request.
//
//   submit ─> terms (expert + rows) ─> replica choice ─> call per host ─> answer ─> combine in call order ─> finished
//                  ^                                        │ failed, refused, timed out, link down
//                  └───────────── other replica <───────────┤
//                                                           └ none left: wait / substitute / renormalise / fail
//
// * An answer counts once: late, repeated and foreign ones are recognised by (request id, attempt) and reported.
// * A call that does not answer in time (4 x what the host usually takes) is given up only if every expert of it can be
//   had elsewhere: giving it up earlier would throw away work that nobody else can do.
// * A call that takes longer than 95 % of its kind is sent to other hosts too, on a budget of its own
// (dispatcher_hedge.cpp).
// * First attempts are never delayed; retries after refusals and time-outs live on a budget (faults.md O9).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "router_node/core/hedge_budget.hpp"
#include "router_node/core/host_table.hpp"
#include "router_node/core/node_latency.hpp"
#include "router_node/core/request_state.hpp"
#include "router_node/core/retry_budget.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

// Totals since start, for metrics.
struct dispatcher_counters {
  std::uint64_t calls{};
  std::uint64_t retries{};
  std::uint64_t timed_out_calls{};
  std::uint64_t refused_calls{};
  std::uint64_t lost_calls{};  // link down, host lost or restarted
  std::uint64_t late_answers{};
  std::uint64_t repeated_answers{};
  std::uint64_t foreign_answers{};
  // Calls for what another host was asked too, and how they ended: their rows counted; the other host was first; given
  // up.
  std::uint64_t hedged_calls{};
  std::uint64_t hedges_won{};
  std::uint64_t hedges_lost{};
  std::uint64_t hedges_abandoned{};
  std::uint64_t hedges_denied{};  // not sent for want of budget; not part of hedged_calls
};

class dispatcher {
 public:
  // `random` is borrowed. Request numbers begin behind `first_id`.
  explicit dispatcher(std::mt19937_64& random, request_id first_id = {});

  // Would a request of this size be admitted now? overloaded when not. To be asked before work is put into it.
  [[nodiscard]] result<void> check_admission(std::uint32_t rows, std::uint32_t hidden, dtype wire) const;

  // Admits a request and dispatches it, or refuses at once: overloaded when rows or bytes in flight would pass their
  // limit, timeout when the deadline has passed. Everything after that is reported as finished.
  // @pre routing and num_experts fit each other, ids are in [-1, num_experts), hidden and wire are the model's
  [[nodiscard]] result<request_id> submit(dispatch_request request, time_point now);

  // The caller of a request went away: nothing more comes of it. False: it is over already.
  bool cancel(request_id id);

  // What the layer's gate must choose under now; empty: it may choose every expert. Valid until the next map.
  [[nodiscard]] const std::vector<std::uint8_t>& gate_mask(layer_id layer) const { return hosts_.gate_mask(layer); }

  // Older maps than the current one are ignored. A request that still has calls to make and was gated under another
  // mask than the new map's begins anew, so that its answer is that of one map.
  void set_map(std::shared_ptr<const cluster_map> map, time_point now);
  // No request will name versions_of before that epoch any more.
  void release_versions(epoch_number before) { hosts_.release_versions(before); }
  // Each call is a new state: calls in flight to the host fail and go elsewhere.
  void set_link(const node_id& host, link_state link, time_point now);

  [[nodiscard]] answer_report on_answer(call_answer answer, time_point now);
  // The shell could not send this call: as if the host had refused it.
  void on_send_failure(const call_id& id, const error& reason, time_point now);

  // Acts on what is due: attempt time-outs, deadlines, parked terms.
  void tick(time_point now);
  // When tick has something to do; may be early. nullopt: never.
  [[nodiscard]] std::optional<time_point> next_tick() const;

  [[nodiscard]] dispatch_output take_output();

  [[nodiscard]] const dispatcher_counters& counters() const { return counters_; }
  [[nodiscard]] const host_table& hosts() const { return hosts_; }
  [[nodiscard]] std::size_t requests_in_flight() const { return requests_.size(); }
  [[nodiscard]] std::size_t requests_waiting() const { return parked_.size(); }
  [[nodiscard]] std::uint64_t rows_in_flight() const { return rows_in_flight_; }

 private:
  enum class cause : std::uint8_t { lost, refused, timed_out };
  enum class verdict : std::uint8_t { go_on, look_again, over };

  // One term with the replica that was chosen for it.
  struct placement {
    std::uint32_t term{};
    candidate to;
    bool is_probe{};  // of a slow host: doubled at once
  };
  struct wakeup {
    time_point at;
    request_id id;
    std::uint32_t attempt{};  // 0: the request itself
    bool operator>(const wakeup& other) const { return at > other.at; }
  };

  // -- placing (dispatcher_place.cpp)
  [[nodiscard]] bool has_old_weights(const request_state& r) const;
  void place_parked(request_state& r, time_point now);
  [[nodiscard]] bool gate_anew(request_state& r);
  std::vector<std::uint32_t> choose_replicas(request_state& r, time_point now, std::vector<placement>& placements);
  [[nodiscard]] candidate choose(std::optional<host_index>& probed, time_point now);
  [[nodiscard]] std::optional<candidate> with_its_group(const request_state& r, std::uint32_t expert,
                                                        time_point now) const;
  [[nodiscard]] bool may_retry(request_state& r, term_parked& parked, bool& has_paid, time_point now);
  bool find_candidates(const request_state& r, std::uint32_t expert, time_point now, nobody& why);
  [[nodiscard]] verdict degrade_terms(request_state& r, const std::vector<std::uint32_t>& without, time_point now);
  [[nodiscard]] verdict substitute(request_state& r, const std::vector<std::uint32_t>& without, time_point now);
  // `doubled`: the attempt that computes the same terms; 0: none.
  void emit_calls(request_state& r, std::vector<placement>& placements, std::uint32_t doubled, time_point now);
  void emit_call(request_state& r, std::span<const placement> placements, std::uint32_t doubled, time_point now);
  void fill_call(const request_state& r, std::span<const placement> placements, outgoing_call& out);

  // -- hedging (dispatcher_hedge.cpp)
  void arm_hedge(call& made, const call_id& id, call_size size, bool is_probe, time_point now);
  void hedge(request_state& r, std::uint32_t attempt, time_point now);
  void accept_double(request_state& r, std::uint32_t attempt, const partial_rows& rows);
  void promote_doubles(request_state& r, std::uint32_t attempt);
  void drop_doubles(request_state& r, std::uint32_t attempt, std::uint64_t& outcome);

  // -- answers and failures (dispatcher.cpp)
  answer_fate fate_of_unknown(const call_id& id) const;
  answer_fate accept(request_state& r, std::uint32_t attempt, const call_answer& answer, const partial_rows& rows,
                     time_point now);
  void fail_call(request_state& r, std::uint32_t attempt, cause why, const std::string& reason, time_point now);
  static void park(term& t, cause why, const std::string& reason);
  void exclude(request_state& r, host_index host, std::optional<std::uint32_t> expert, std::uint32_t tries,
               time_point now);
  [[nodiscard]] bool is_excluded(const request_state& r, host_index host, std::uint32_t expert, time_point now,
                                 nobody& why) const;
  void check_attempt(request_state& r, std::uint32_t attempt, time_point now);
  [[nodiscard]] bool is_available_elsewhere(const request_state& r, const call& c, time_point now);
  void fail_calls_of_lost_hosts(time_point now);
  void check_paces(time_point now);
  void show_pace(host_index host);
  void place_all_parked(time_point now);

  // -- ends
  void settle(request_state& r);
  void finish(request_state& r, std::variant<layer_result, error> outcome);
  void retire(request_state& r);
  [[nodiscard]] error deadline_error(const request_state& r) const;
  void leave_flight(const call& c);
  void wake_at(time_point at, request_id id, std::uint32_t attempt);
  [[nodiscard]] request_state* find(request_id id);

  std::mt19937_64& random_;
  std::uint64_t last_id_;
  host_table hosts_;
  node_latency latency_;
  retry_budget budget_;
  hedge_budget hedges_;
  std::unordered_map<std::uint64_t, std::unique_ptr<request_state>> requests_;
  std::vector<std::unique_ptr<request_state>> over_;  // until take_output: callers up the stack still look at them
  std::unordered_set<std::uint64_t> parked_;          // requests with a parked term
  std::priority_queue<wakeup, std::vector<wakeup>, std::greater<>> wakeups_;
  // Ended requests, remembered for a while to tell a late answer from a foreign one: attempts by id.
  std::unordered_map<std::uint64_t, std::uint32_t> ended_;
  std::deque<std::uint64_t> ended_order_;
  std::uint64_t rows_in_flight_{};
  std::uint64_t bytes_in_flight_{};
  dispatch_output output_;
  dispatcher_counters counters_;

  // Scratch space of placing, kept to save allocations.
  std::vector<candidate> candidates_;
  std::vector<std::uint64_t> rows_by_host_;
  std::vector<std::optional<host_index>> host_of_group_;  // where the request's first expert of the group goes
  std::vector<std::int32_t> position_;
};

}  // namespace troupe::router
