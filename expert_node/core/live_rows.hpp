// A few rows that each expert of this node was asked for lately, in the device's type: what another version of its
// weights is compared on, before it serves, with the one that does. Belongs to the host.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "common/ids.hpp"
#include "expert_node/core/expert_call.hpp"

namespace troupe::expert {

class live_rows {
 public:
  // Is it time for another row of this expert? One per limits::live_row_interval, so that keeping them costs nothing.
  [[nodiscard]] bool wants(const expert_id& expert, time_point now) const;
  // Keeps it in the place of the oldest one when there are limits::live_rows_max; none while
  // limits::live_rows_bytes_max are kept of all experts together. @pre rows of one expert are equally long
  void keep(const expert_id& expert, std::span<const std::byte> row, time_point now);
  // [n, H], in no order; empty: none.
  [[nodiscard]] std::span<const std::byte> of(const expert_id& expert) const;
  // The expert is not here any more.
  void forget(const expert_id& expert);

 private:
  struct kept_rows {
    std::vector<std::byte> rows;
    std::size_t oldest{};  // where its row begins, once there are as many as may be
    time_point last;
  };
  std::map<expert_id, kept_rows> kept_;
  std::size_t bytes_{};
};

}  // namespace troupe::expert
