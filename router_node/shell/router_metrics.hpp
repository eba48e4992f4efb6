// The router's counters under the names of the metrics page. Written by the router's thread alone, read at each scrape.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/http/metrics.hpp"
#include "router_node/core/dispatcher.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/core/pair_counter.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

enum class text_outcome : std::uint8_t;

struct text_load;

class router_metrics {
 public:
  explicit router_metrics(const model_plan& plan);

  // -- the router's thread
  void on_call(const outgoing_call& call);
  void on_answer(const answer_report& report);
  // Rows chose experts, by the gate or by their client. `place`: layer_plan::place.
  void on_chosen(std::uint32_t place, const model::routing& routing);
  // Rows were gated under a mask. `place`: layer_plan::place.
  void on_masked(std::uint32_t place, const model::masked_load& load, std::uint32_t rows);
  // Rows were gated; those that a group limit changed are counted.
  void on_limited(std::uint32_t place, const model::routing& routing);
  // Rows were gated; those that tried a cold expert are counted.
  void on_explored(std::uint32_t place, const model::routing& routing);
  void on_cold_inputs(std::uint64_t rows, std::uint64_t bytes);
  // A job of one layer was answered: how many calls took each row along, and how many calls there were.
  void on_spread(std::uint32_t place, std::span<const std::uint32_t> hosts_of_row, std::uint32_t messages);
  // What masks have cost since the start, of experts that were masked at some time.
  struct masked_total {
    expert_id expert;
    std::uint64_t rows{};  // gated meanwhile
    double mass{};         // gate probability that they would have given it
  };
  [[nodiscard]] std::vector<masked_total> masked_totals() const;
  // Which experts were chosen together, of the layers whose turn it is, since their last turn.
  struct pairs_of_layer {
    layer_id layer;
    std::uint64_t number{};  // of the turn
    pair_counts counts;
  };
  [[nodiscard]] std::vector<pairs_of_layer> take_pairs();
  // The expert nodes whose pace has changed since they were first met, as of the last refresh, with why it last did.
  struct paced_node {
    node_id name;
    node_pace pace{};
    std::string reason;
  };
  [[nodiscard]] std::vector<paced_node> paced_nodes() const;
  // A job of one layer has ended: its rows by outcome.
  void on_rows(const finished_request& finished, std::uint32_t rows);
  // A client's request has ended.
  void on_request(const finished_request& finished, double seconds);
  // A request was refused before it was accepted.
  void on_refused(errc code);
  void on_bad_message() { bad_messages_.add(); }
  void on_replay_cache(std::size_t bytes) { replay_cache_bytes_.set(static_cast<double>(bytes)); }
  // About once a second: what is derived from the last minute, and what others count.
  // `requests`: of clients for layers, that are under way; those of texts are the dispatcher's too.
  void refresh(double seconds_passed, const dispatcher& d, std::uint64_t requests, std::uint64_t bytes_out,
               std::uint64_t bytes_in, std::uint64_t reconnects);

  // -- any thread
  void use_map(std::shared_ptr<const cluster_map> map);
  // A request for text over HTTP has ended, or was refused.
  void on_text(text_outcome outcome);
  void collect(std::vector<http::metric_family>& families, const text_load& texts) const;

 private:
  struct layer_counters {
    std::string name;
    layer_id id;
    std::vector<http::counter> calls;              // [N]
    std::vector<http::counter> tokens;             // [N]
    std::vector<http::counter> masked_mass;        // [N]
    std::vector<http::counter> masked_rows;        // [N]
    std::vector<std::uint64_t> rows_while_masked;  // [N]; the router's thread alone
    http::histogram latency{http::latency_bounds()};
    http::counter messages;
    http::counter limited_rows;
    http::counter explored_rows;
    http::histogram hosts_per_row;
    http::histogram messages_per_request;
    http::gauge entropy;
    http::gauge imbalance;
    // Of about the last minute; the router's thread alone.
    std::vector<double> recent_tokens;                    // [N]
    std::unordered_map<std::string, double> recent_rows;  // by host
    pair_counter pairs;                                   // the router's thread alone
    explicit layer_counters(const layer_plan& plan);
  };
  [[nodiscard]] layer_counters* find(layer_id id);
  void collect_layers(std::vector<http::metric_family>& families) const;
  void collect_requests(std::vector<http::metric_family>& families, const text_load& texts) const;
  void collect_totals(std::vector<http::metric_family>& families) const;
  void collect_map(std::vector<http::metric_family>& families) const;

  std::vector<std::unique_ptr<layer_counters>> layers_;  // ordered by id
  std::uint64_t pair_turns_{};
  http::counter rows_exact_, rows_substituted_, rows_renormalised_, rows_dropped_, rows_failed_;
  http::counter requests_ok_, requests_error_, requests_rejected_, requests_expired_, requests_aborted_;
  std::array<std::atomic<std::uint64_t>, 5> texts_{};  // over HTTP, by text_outcome; any thread writes
  http::histogram duration_{http::latency_bounds()};
  http::counter bad_messages_;
  http::gauge bytes_out_, bytes_in_, reconnects_;
  http::gauge running_, waiting_;
  http::gauge replay_cache_bytes_;
  http::gauge cold_rows_, cold_bytes_;
  http::gauge retries_, timed_out_, refused_, lost_, late_, repeated_, foreign_;
  http::gauge hedges_won_, hedges_lost_, hedges_abandoned_, hedges_denied_;
  struct host_gauge {
    std::string name;
    bool is_up{};
    node_pace pace{};
    double slowness{1};
    std::string pace_reason;
  };
  mutable std::mutex mutex_;  // guards map_ and hosts_
  std::shared_ptr<const cluster_map> map_;
  std::vector<host_gauge> hosts_;

 public:
  void on_aborted() { requests_aborted_.add(); }
  // A stream of text ended with its last token, or with this error. The router's thread.
  void on_stream_end(std::optional<errc> failure);
};

}  // namespace troupe::router
