// Calls that wait for the device, merged into batches while it is busy.
//
// A batch serves one layer: that of the call that has waited longest, so that no layer starves whatever the others
// send. Younger calls of the layer join it, oldest first, up to a row bound. Its size is bounded by the call_ledger in
// front of it. Belongs to the expert host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "common/ids.hpp"
#include "common/limits.hpp"
#include "expert_node/core/expert_call.hpp"

namespace troupe::expert {

class call_queue {
 public:
  explicit call_queue(std::uint32_t batch_rows_max = limits::merged_batch_rows_max);

  void add(call_handle call);

  // Takes out every call whose deadline has passed, of all layers.
  [[nodiscard]] std::vector<call_handle> take_expired(time_point now);

  // The next batch; empty when nothing waits. A call larger than the row bound comes alone.
  [[nodiscard]] std::vector<call_handle> take_batch();

  [[nodiscard]] bool empty() const { return waiting_.empty(); }
  [[nodiscard]] std::size_t calls() const { return calls_; }
  [[nodiscard]] std::uint64_t rows() const { return rows_; }

 private:
  struct entry {
    std::uint64_t sequence{};
    call_handle call;
  };

  void forget(const expert_call& call);

  std::uint32_t batch_rows_max_;
  std::uint64_t next_sequence_{};
  std::size_t calls_{};
  std::uint64_t rows_{};
  std::map<layer_id, std::deque<entry>> waiting_;  // no empty deque stays
};

}  // namespace troupe::expert
