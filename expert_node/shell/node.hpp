// One expert node: makes the parts, connects them, stops them in order.
//
// Start: keys, checkpoint, expert host (device and arena on its own thread), loader, data and peer sockets, HTTP, and
// last the link to the coordinator, which brings the work. Stop: leave the cluster, refuse new calls, answer the old,
// then the threads in the reverse order.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/tensor.hpp"

namespace troupe::expert {

enum class device_kind : std::uint8_t { cpu, reference, cuda };

struct node_options {
  std::string version{"0.1.0"};
  std::string commit;  // that the program was built from; empty: not known
  node_id name{"expert-0"};
  std::filesystem::path data_dir;              // keys
  std::filesystem::path run_dir;               // ipc sockets
  std::string http{"127.0.0.1:0"};             // empty: none
  std::optional<std::filesystem::path> model;  // none: bundles come from peers; needs slots and memory_bytes
  std::optional<dtype> type;                   // none: as the checkpoint stores them (f16 becomes f32)
  device_kind device{device_kind::cpu};
  std::uint32_t device_index{};       // cuda: which one
  std::filesystem::path plugin;       // cuda: libtroupe_cuda.so
  std::filesystem::path link_plugin;  // cuda: libtroupe_nccl.so; empty: experts come over ZeroMQ only
  std::uint32_t threads{1};
  std::optional<std::uint32_t> slots;         // none: as many as memory_bytes holds
  std::optional<std::uint64_t> memory_bytes;  // none: every expert of the model, at most 80 % of free memory
  std::string coordinator;                    // control address; empty: the ipc socket in run_dir
  std::string listen;                         // data address; empty: the ipc socket in run_dir
  std::string zone;
  bool allow_nonfinite{};
  bool reject_nonfinite{};
};

// invalid_request naming the flags.
[[nodiscard]] result<void> validate(const node_options& options);

class expert_node {
 public:
  // `on_failure`: the node cannot go on (its host died); called once, from any thread.
  [[nodiscard]] static result<std::unique_ptr<expert_node>> start(node_options options,
                                                                  std::function<void(std::string)> on_failure);
  // As stop(0).
  ~expert_node();
  expert_node(const expert_node&) = delete;
  expert_node& operator=(const expert_node&) = delete;

  [[nodiscard]] const std::string& data_address() const;
  [[nodiscard]] const std::string& peer_address() const;
  [[nodiscard]] const std::string& http_address() const;  // empty: none
  [[nodiscard]] std::string describe() const;             // one line for the log

  // Calls in flight get `grace` to end.
  void stop(std::chrono::milliseconds grace);

 private:
  class impl;
  explicit expert_node(std::unique_ptr<impl> i);
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::expert
