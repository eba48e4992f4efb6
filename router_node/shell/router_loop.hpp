// The router's thread: polls clients, links and its inbox, and does all the work of a request without handing it on.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/wire/socket.hpp"
#include "router_node/core/generation/version_history.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/shell/client_server.hpp"
#include "router_node/shell/expert_link.hpp"
#include "router_node/shell/http_endpoints.hpp"
#include "router_node/shell/inbox.hpp"
#include "router_node/shell/info_desk.hpp"
#include "router_node/shell/layer_service.hpp"
#include "router_node/shell/router_identity.hpp"

namespace troupe::router {

class input_reservoir;
class layer_engine;
class load_recorder;
class router_metrics;

struct loop_settings {
  const model_plan* plan{};
  layer_engine* engine{};
  const router_identity* self{};
  const link_environment* links{};
  router_metrics* metrics{};
  load_recorder* recorder{};     // none: loads are not written down
  input_reservoir* reservoir{};  // none: no inputs of cold experts are kept
  float explore_bias{};          // of layer_service::explore
  info_desk::ask_coordinator ask_coordinator;
  // This map is in use, and no older one, but that texts go by the expert versions of maps since `uses_since`. Called
  // on the router's thread, again when the last changes.
  std::function<void(term_number, epoch_number, epoch_number uses_since)> acknowledge;
  // The map in use says other masks or versions than the one before. Called on the router's thread.
  std::function<void(model_change)> model_changed{};
  // generation_engine::uses_since; none: no text is pinned.
  std::function<epoch_number()> uses_since{};
  // About once a second, on the router's thread.
  std::function<void()> report{};
  std::uint64_t seed{};
};

// What other threads may ask about the loop.
struct loop_health {
  std::atomic<std::uint64_t> epoch{};         // 0: no map yet
  std::atomic<std::uint32_t> hosts_wanted{};  // expert hosts of the map
  std::atomic<std::uint32_t> hosts_ready{};
  std::atomic<std::uint64_t> unroutable{};        // experts of the map without a replica
  std::atomic<std::uint64_t> masked{};            // experts that no row may choose: pruned, or not added yet
  std::atomic<std::uint64_t> cold_fingerprint{};  // of the newest news of cold experts
  std::atomic<std::uint64_t> batches{};           // layer_service::batches
  std::atomic<bool> is_other_model{};             // the cluster serves another checkpoint than this router has
};

class router_loop final : public layer_gateway {
 public:
  // `clients`: bound ROUTER sockets.
  router_loop(loop_settings settings, std::vector<wire::socket> clients, wire::wake_signal wake);
  ~router_loop() override;
  router_loop(const router_loop&) = delete;
  router_loop& operator=(const router_loop&) = delete;

  // On the router's thread; returns after stop().
  void run();

  // -- any thread
  [[nodiscard]] result<std::uint64_t> submit(layer_job job) override;
  void cancel(std::uint64_t number) override;
  void use_map(std::shared_ptr<const cluster_map> map);
  void on_coordinator_reply(std::uint64_t query_id, result<std::string> json);
  // As info_desk::ask; `done` is called on the router's thread.
  [[nodiscard]] result<void> ask(info_kind kind, info_desk::answer done);
  // All experts that are cold from now on.
  void use_cold(std::uint64_t fingerprint, std::vector<expert_id> cold);
  // Where clients over ZeroMQ get text, or why there is none.
  void use_text(client_streams::text_or_reason text);
  // Clients over ZeroMQ are sent elsewhere with what they ask from now on.
  void close_clients();
  // New requests are refused; those in progress get `grace` to end.
  void stop(std::chrono::milliseconds grace);
  [[nodiscard]] std::size_t waiting() const { return inbox_.size(); }  // messages that it has not looked at
  [[nodiscard]] const loop_health& health() const { return health_; }

 private:
  struct new_job {
    std::uint64_t number{};
    layer_job job;
  };
  struct cancelled_job {
    std::uint64_t number{};
  };
  struct new_map {
    std::shared_ptr<const cluster_map> map;
  };
  struct coordinator_reply {
    std::uint64_t query_id{};
    result<std::string> json;
  };
  struct new_question {
    info_kind kind{};
    info_desk::answer done;
  };
  struct cold_news {
    std::uint64_t fingerprint{};
    std::vector<expert_id> cold;
  };
  struct new_text {
    client_streams::text_or_reason text;
  };
  struct close_order {};
  struct stop_order {
    std::chrono::milliseconds grace{};
  };
  using item = std::variant<new_job, cancelled_job, new_map, coordinator_reply, new_question, cold_news, new_text,
                            close_order, stop_order>;

  void obey(new_job&& order, time_point now);
  void obey(cancelled_job&& order, time_point now);
  void obey(new_map&& order, time_point now);
  void obey(coordinator_reply&& order, time_point now);
  void obey(new_question&& order, time_point now);
  void obey(cold_news&& order, time_point now);
  void obey(new_text&& order, time_point now);
  void obey(close_order&& order, time_point now);
  void obey(stop_order&& order, time_point now);
  void fill_poller();
  [[nodiscard]] std::chrono::nanoseconds time_to_wait(time_point now) const;
  void refresh(time_point now);
  void count_links();
  void acknowledge();

  const loop_settings settings_;
  std::mt19937_64 random_;
  layer_service service_;
  info_desk desk_;
  inbox<item> inbox_;
  client_server clients_;
  std::atomic<std::uint64_t> last_number_{};
  loop_health health_;

  // The router's thread.
  wire::poller poller_;
  std::uint64_t polled_generation_{};
  std::unordered_map<std::uint64_t, request_id> by_number_;  // jobs from submit() that are in progress
  time_point refreshed_;
  epoch_number versions_changed_;  // the newest map that changed any
  epoch_number uses_since_;        // as told last
  std::optional<time_point> stop_at_;
};

}  // namespace troupe::router
