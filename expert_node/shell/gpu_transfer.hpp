// Experts from GPU to GPU, from slot to slot: tried before ZeroMQ (peer_fetch) where both nodes were started with
// --link-gpus. Only the request and its answer go over the connection between the nodes:
//
//   taker (loader's thread)                   giver: peer server's thread       giver: a thread of its own
//   LinkBundle (expert, key, dtype)     ──>   pins it, opens its end
//   <── LinkedBundle (layout, or why not)     ─────────────────────────>        connects, sends, closes, unpins
//   connects, receives, closes, adopts
//
// Unverified: the loader compares the digest of what is in the slot then. Every step of a link ends in time
// (gpu_link.hpp).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "compute/gpu_link.hpp"
#include "expert_node/shell/device_memory.hpp"
#include "expert_node/shell/peer_links.hpp"

namespace troupe::expert {

// A new end on this node's device. Empty: this node does not link.
using link_opener = std::function<result<std::unique_ptr<compute::gpu_link_backend>>()>;

// What a taker asks a giver for.
struct link_request {
  slot_content content;
  dtype type{dtype::bf16};  // of the taker's slots
  std::vector<std::byte> key;
};

// The giver's side: one expert at a time, on a thread of its own.
class gpu_giver {
 public:
  // `type`: of the slots.
  gpu_giver(link_opener open, std::shared_ptr<device_memory> memory, dtype type)
      : open_{std::move(open)}, memory_{std::move(memory)}, type_{type} {}
  ~gpu_giver();
  gpu_giver(const gpu_giver&) = delete;
  gpu_giver& operator=(const gpu_giver&) = delete;

  // Any thread. Opens this end and goes to work on what lies in the slot; `done` is called when nothing reads the slot
  // any more, however it ended. overloaded: another expert is on its way; else why there is no link.
  [[nodiscard]] result<void> give(const link_request& asked, slot_index slot,
                                  std::shared_ptr<const model::bundle_layout> layout, std::function<void()> done);

 private:
  [[nodiscard]] result<std::unique_ptr<compute::gpu_link_backend>> open_end(const link_request& asked,
                                                                            const model::bundle_layout& layout);

  const link_opener open_;
  const std::shared_ptr<device_memory> memory_;
  const dtype type_;
  std::atomic<bool> stopping_{};
  std::atomic<bool> busy_{};
  std::mutex mutex_;    // one give at a time
  std::thread thread_;  // guarded by mutex_; of the newest expert
};

// The taker's side, on the loader's thread: brings the expert from that source into the empty slot; its layout. An
// error: the slot is empty, and it has to come another way.
[[nodiscard]] result<std::shared_ptr<const model::bundle_layout>> fetch_over_gpus(
    const link_opener& open, device_memory& memory, dtype type, peer_links& links, const peer_source& source,
    const slot_content& content, slot_index slot);

}  // namespace troupe::expert
