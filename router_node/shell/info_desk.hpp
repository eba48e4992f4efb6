// Answers to "what is there": asked of the coordinator; while that is away, said from the last map.
// Thread rule: the router's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/core/types.hpp"
#include "router_node/shell/router_identity.hpp"

namespace troupe::router {

enum class info_kind : std::uint8_t { status = 1, nodes = 2, experts = 3, model = 4 };

class info_desk {
 public:
  // Sends one question to the coordinator; the answer comes through on_reply().
  using ask_coordinator = std::function<result<void>(std::uint64_t query_id, info_kind kind, const std::string& layer)>;
  using answer = std::function<void(result<std::string> json)>;

  info_desk(const router_identity& self, const model_plan& plan, ask_coordinator ask);

  // `layer`: only for experts; empty: all. `done` is called once, now or later.
  void ask(info_kind kind, const std::string& layer, answer done, time_point now);
  void on_reply(std::uint64_t query_id, result<std::string> json);
  void use_map(std::shared_ptr<const cluster_map> map) { map_ = std::move(map); }

  void tick(time_point now);
  [[nodiscard]] time_point next_tick() const;

 private:
  struct question {
    info_kind kind{};
    std::string layer;
    answer done;
    time_point until;
  };
  [[nodiscard]] result<std::string> from_map(info_kind kind, const std::string& layer, const error& reason) const;
  [[nodiscard]] std::string status_from_map(const std::string& notice) const;
  [[nodiscard]] std::string nodes_from_map(const std::string& notice) const;
  [[nodiscard]] std::string experts_from_map(const std::string& layer, const std::string& notice) const;
  [[nodiscard]] std::string describe_model() const;

  const router_identity& self_;
  const model_plan& plan_;
  ask_coordinator ask_;
  std::shared_ptr<const cluster_map> map_;
  std::unordered_map<std::uint64_t, question> questions_;
  std::uint64_t last_query_{};
};

}  // namespace troupe::router
