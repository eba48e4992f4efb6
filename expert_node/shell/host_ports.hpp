// What the expert host asks of the threads around it. Calls come from the host's thread and must not block.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/cluster_map.hpp"
#include "expert_node/core/expert_call.hpp"
#include "expert_node/core/expert_statistics.hpp"
#include "expert_node/core/slot_table.hpp"

namespace troupe::expert {

// Another expert node that holds a bundle.
struct peer_source {
  node_id node;
  std::string address;
  std::string public_key;  // CURVE, Z85; empty on ipc
};

// Bring one bundle into one slot; ends in slot_loaded or load_failed.
struct load_job {
  slot_index slot;
  slot_content content;
  std::optional<sha256_digest> expected;  // none: report what was found
  std::vector<peer_source> peers;
  std::string folder{};  // the checkpoint folder that has this version; empty: the node's own
};

struct statistics_report {
  std::vector<expert_line> changed;  // since the last report
  host_totals host;
  std::uint64_t queue_rows{};
  std::uint32_t slots_used{};
  std::uint64_t resident_bytes{};
};

class host_ports {
 public:
  virtual ~host_ports() = default;

  // The call's outcome is set; its rows, if any, are in its output.
  virtual void answer(call_handle call) = 0;
  // One merged batch has been computed; its calls are answered after this.
  virtual void batch_computed(double seconds) = 0;
  virtual void start_load(load_job job) = 0;
  // Ends in slot_unloaded. Loads and unloads of one slot keep their order.
  virtual void start_unload(slot_index slot) = 0;
  virtual void inventory(std::vector<slot_report> slots) = 0;
  // Instead of an inventory, from the moment on when the device is lost, and all that it held with it.
  virtual void device_lost(const std::string& reason) = 0;
  virtual void statistics(statistics_report report) = 0;
};

}  // namespace troupe::expert
