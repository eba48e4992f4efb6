// Layer requests from validated input to finished answer: gate, dispatch over the links, shared experts while the hosts
// compute, combine, convert. Owns the dispatcher and the links.
//
// Thread rule: the router's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/cluster_map.hpp"
#include "router_node/core/dispatcher.hpp"
#include "router_node/shell/expert_link.hpp"
#include "router_node/shell/layer_job.hpp"

namespace troupe::router {

class layer_engine;
class input_reservoir;
struct kept_inputs;
class load_recorder;
class router_metrics;

class layer_service : private link_listener {
 public:
  // All are borrowed and outlive the service.
  layer_service(const model_plan& plan, layer_engine& engine, const link_environment& links, router_metrics& metrics,
                std::mt19937_64& random);
  ~layer_service() override;

  // From now on; borrowed, outlives the service. nullptr: nobody writes loads down.
  void record_loads(load_recorder* recorder) { recorder_ = recorder; }
  // From now on; borrowed, outlives the service. nullptr: no inputs of cold experts are kept.
  void keep_inputs(input_reservoir* reservoir) { reservoir_ = reservoir; }
  // What a row may lose by trying a cold expert (model::exploration); 0: none is tried.
  void explore(float bias) { explore_bias_ = bias; }
  // All experts that are cold from now on.
  void use_cold(const std::vector<expert_id>& cold);

  // Takes the job and answers through job.done, now or later, exactly once. The number names it for cancel();
  // nullopt when it is over already.
  std::optional<request_id> submit(layer_job job, time_point now);
  // job.done is not called any more.
  void cancel(request_id id);

  // False: an older map than the one in use.
  bool use_map(std::shared_ptr<const cluster_map> map, time_point now);
  // No job will name versions_of before that epoch any more.
  void release_versions(epoch_number before) { dispatcher_.release_versions(before); }

  // -- for the loop
  void add_to(wire::poller& poller);
  [[nodiscard]] std::uint64_t socket_generation() const;
  // Reads links, acts on what is due, sends, computes and answers until nothing is left to do at this time.
  void run(const wire::poller& poller, time_point now);
  [[nodiscard]] time_point next_tick() const;
  // About once a second.
  void refresh_metrics(double seconds_passed);
  // Answers everything that is still open with this error.
  void abort_all(const error& reason);

  // What is kept of a cold expert's inputs; nullptr: nothing, and nothing will be while it is not cold.
  [[nodiscard]] const kept_inputs* inputs_of(const expert_id& expert) const;
  [[nodiscard]] bool keeps_inputs() const;
  // How often rows went through the busiest layer together, since the start.
  [[nodiscard]] std::uint64_t batches() const;
  [[nodiscard]] std::size_t requests_in_flight() const { return dispatcher_.requests_in_flight(); }
  [[nodiscard]] const std::shared_ptr<const cluster_map>& map() const { return dispatcher_.hosts().map(); }
  // Expert hosts that the map counts on, and how many of them have a link.
  struct link_count {
    std::size_t wanted{};
    std::size_t ready{};
  };
  [[nodiscard]] link_count count_links() const;
  // Has a link come or gone since the last question?
  [[nodiscard]] bool take_links_changed() { return std::exchange(links_changed_, false); }

 private:
  struct pending;

  void on_link(const node_id& host, link_state state) override;
  void on_call_answer(call_answer answer) override;
  void on_bad_message(const node_id& host, const error& reason) override;

  [[nodiscard]] result<dispatch_request> prepare(pending& p) const;
  void flush(time_point now);
  void send(const outgoing_call& call, time_point now);
  void compute_shared();
  void finish(finished_request finished);
  [[nodiscard]] model::exploration exploration_of(const layer_plan& layer) const;
  void keep_inputs_of(const pending& p, const layer_result& result);
  [[nodiscard]] std::shared_ptr<const layer_answer> make_answer(pending& p, layer_result& result) const;

  const model_plan& plan_;
  layer_engine& engine_;
  const link_environment& environment_;
  router_metrics& metrics_;
  load_recorder* recorder_{};
  input_reservoir* reservoir_{};
  float explore_bias_{};
  std::vector<std::vector<std::uint8_t>> cold_;  // by layer_plan::place: [N], 1: cold; empty: none is
  std::vector<std::uint64_t> jobs_;              // by layer_plan::place, since the start
  dispatcher dispatcher_;
  std::map<node_id, std::unique_ptr<expert_link>> links_;
  bool links_changed_{};
  std::uint64_t links_generation_{};  // of links that were made or removed
  std::unordered_map<std::uint64_t, std::unique_ptr<pending>> pending_;
  std::vector<std::uint64_t> without_shared_;  // requests whose shared experts are still to be computed
  link_traffic gone_;                          // of links that were removed
  time_point now_;                             // of the current call, for the listener
};

}  // namespace troupe::router
