// Calls that were let in and are not yet answered: the bound of this node, and its memory for repeated messages.
//
// It stands before the expert host's mailbox, so that a call past the bound is refused at once although the host is
// computing, and the mailbox can never grow beyond what is counted here. Belongs to the socket thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <unordered_set>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "expert_node/core/expert_call.hpp"

namespace troupe::expert {

struct ledger_limits {
  std::uint64_t rows_max{limits::inflight_rows_max};
  std::uint64_t bytes_max{limits::inflight_bytes_max};
  std::size_t calls_max{limits::inflight_calls_max};
  std::size_t answered_max{limits::answered_calls_remembered};
};

class call_ledger {
 public:
  explicit call_ledger(ledger_limits bounds = {});

  // `bytes`: of input and output together.
  // overloaded: a bound is reached. in_progress: the same call is being executed. conflict: it was answered already.
  [[nodiscard]] result<void> admit(const call_id& id, std::uint32_t rows, std::uint64_t bytes);
  // The call has been answered. False when it is not in the ledger.
  bool settle(const call_id& id);

  // From now on admit() answers unavailable; what is in flight goes on.
  void close() { closed_ = true; }

  [[nodiscard]] std::size_t calls() const { return in_flight_.size(); }
  [[nodiscard]] std::uint64_t rows() const { return rows_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  struct entry {
    std::uint32_t rows{};
    std::uint64_t bytes{};
  };

  void remember(const call_id& id);

  ledger_limits bounds_;
  bool closed_{};
  std::uint64_t rows_{};
  std::uint64_t bytes_{};
  std::unordered_map<call_id, entry> in_flight_;
  std::unordered_set<call_id> answered_;
  std::deque<call_id> answered_order_;
};

}  // namespace troupe::expert
