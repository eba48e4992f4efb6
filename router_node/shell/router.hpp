// One router: makes the parts, connects them, stops them in order.
//
// Start: keys, checkpoint with gates and shared experts, client sockets, the router's actor, HTTP, and last the link to
// the coordinator, which brings the map. Stop: leave the cluster, refuse new requests, answer the old, then the threads
// in the reverse order.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "model/gating.hpp"

namespace troupe::router {

struct router_options {
  std::string version{"0.1.0"};
  std::string commit;
  node_id name{"router-0"};
  std::filesystem::path data_dir;       // keys
  std::filesystem::path run_dir;        // ipc sockets
  std::filesystem::path model;          // folder of the checkpoint
  std::string http;                     // empty: none
  std::string type{"auto"};             // auto, f32, bf16
  std::uint32_t threads{1};             // for attention and shared experts
  std::uint64_t kv_bytes{};             // for keys and values of running texts; 0: chosen from the model
  bool pins{};                          // texts go on with the expert versions that they began with
  std::filesystem::path api_keys;       // file of keys that HTTP clients must show; empty: none are asked for
  bool no_auth{};                       // HTTP beyond loopback without keys
  std::string coordinator;              // control address; empty: the ipc socket in run_dir
  model::group_limit groups{};          // a row's choice is limited to some groups of experts; none: as the family says
  std::filesystem::path record_trace;   // CSV file of loads, or a folder for one per run; empty: none
  std::uint32_t record_seconds{60};     // of one step in it
  std::uint32_t cold_reservoir_rows{};  // inputs kept per cold expert; 0: none
  double explore_bias{};            // gate probability that a row may lose by trying a cold expert; 0: none is tried
  std::vector<std::string> listen;  // client addresses; empty: the ipc socket in run_dir
};

// invalid_request naming the flag.
[[nodiscard]] result<void> validate(const router_options& options);

class router {
 public:
  // `on_failure`: the router cannot go on; called once, from any thread.
  [[nodiscard]] static result<std::unique_ptr<router>> start(router_options options,
                                                             std::function<void(std::string)> on_failure);
  // As stop(0).
  ~router();
  router(const router&) = delete;
  router& operator=(const router&) = delete;

  [[nodiscard]] const std::vector<std::string>& client_addresses() const;
  [[nodiscard]] const std::string& http_address() const;  // empty: none
  [[nodiscard]] std::string describe() const;             // one line for the log

  // Requests in progress get `grace` to end.
  void stop(std::chrono::milliseconds grace);

 private:
  class impl;
  explicit router(std::unique_ptr<impl> i);
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::router
