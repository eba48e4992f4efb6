// A router on a golden checkpoint, with fake expert hosts and a client, all over real ipc sockets in one process.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "common/cluster_map.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/socket.hpp"
#include "model/checkpoint.hpp"
#include "proto/client_router.pb.h"
#include "router_node/core/input_reservoir.hpp"
#include "router_node/shell/layer_engine.hpp"
#include "router_node/shell/router_loop.hpp"
#include "router_node/shell/router_metrics.hpp"
#include "tests/router_node/fake_host.hpp"

namespace troupe::router::testing {

template <class T>
T must(result<T> value) {
  if (!value) throw std::runtime_error(value.error().message);
  return std::move(*value);
}

// A reply with its tensors, decoded.
struct client_reply {
  proto::RouterToClient envelope;
  std::vector<float> output;
  std::vector<float> routed;
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  std::vector<std::uint8_t> flags;
};

class test_client {
 public:
  test_client(const std::shared_ptr<wire::context>& context, const std::string& address);

  void send(const proto::ClientToRouter& envelope, wire::outgoing_message message = wire::outgoing_message());
  // Fails the test after ten seconds without a message.
  client_reply receive();
  // Nothing within `time`.
  bool is_quiet(std::chrono::milliseconds time);

  proto::Welcome say_hello();
  // hidden: [rows, H] in `type`. Returns the request id.
  std::uint64_t send_layer(const std::string& layer, const std::vector<float>& hidden, std::uint32_t width,
                           const std::function<void(proto::LayerRequest&)>& adjust = {}, dtype type = dtype::f32);
  std::uint64_t send_experts(const std::string& layer, const std::vector<float>& hidden, std::uint32_t width,
                             const std::vector<std::int32_t>& ids, const std::vector<float>& weights,
                             const std::function<void(proto::ExpertsRequest&)>& adjust = {});

 private:
  wire::socket socket_;
  std::uint64_t last_request_{};
};

class router_test : public ::testing::Test {
 protected:
  // `family`: of the golden checkpoint.
  void start(const std::string& family, dtype wire = dtype::f32);
  // Ends the router; safe to call twice.
  void stop();
  ~router_test() override;

  fake_host& add_host(const std::string& name, std::uint64_t incarnation = 1, bool maps_memory = true);
  void kill_host(const std::string& name) { hosts_.erase(name); }
  // Publishes a map in which expert e of every layer is held by hosts[h] for each h in placement[e % size].
  void publish(const std::vector<std::vector<std::string>>& placement);
  // Until the router has a link to so many hosts.
  void await_links(std::uint32_t count);
  // Until `holds`; fails the test after ten seconds.
  static void await(const std::function<bool()>& holds, const std::string& what);
  [[nodiscard]] std::string metrics_text();

  [[nodiscard]] const layer_plan& layer() const { return plan_.layers().front(); }
  [[nodiscard]] std::string layer_name() const { return to_string(layer().id); }
  // Small integers.
  [[nodiscard]] std::vector<float> make_rows(std::uint32_t rows) const;
  // What the fake hosts make of it: row * sum over k of weight * (expert + 1).
  [[nodiscard]] static std::vector<float> expected(const client_reply& reply, const std::vector<float>& rows,
                                                   std::uint32_t width);

  std::filesystem::path folder_;
  std::shared_ptr<wire::context> context_;
  std::unique_ptr<model::checkpoint> checkpoint_;
  model_plan plan_;
  std::unique_ptr<layer_engine> engine_;
  std::unique_ptr<router_metrics> metrics_;
  std::unique_ptr<input_reservoir> reservoir_;  // what start() gives to the loop
  float explore_bias_{};                        // the same
  router_identity identity_;
  link_environment environment_;
  std::unique_ptr<router_loop> loop_;
  std::thread thread_;
  std::map<std::string, std::unique_ptr<fake_host>> hosts_;
  std::map<std::string, std::pair<std::string, std::uint64_t>> known_hosts_;  // address, incarnation
  std::unique_ptr<test_client> client_;
  std::string client_address_;
  std::uint64_t epoch_{};
  std::atomic<std::uint64_t> acknowledged_{};
  std::function<result<void>(std::uint64_t, info_kind, const std::string&)> coordinator_;
};

}  // namespace troupe::router::testing
