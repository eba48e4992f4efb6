#include "expert_node/core/call_ledger.hpp"

#include <fmt/format.h>

namespace troupe::expert {

call_ledger::call_ledger(ledger_limits bounds) : bounds_{bounds} {}

result<void> call_ledger::admit(const call_id& id, std::uint32_t rows, std::uint64_t bytes) {
  if (in_flight_.contains(id)) {
    return fail(errc::in_progress,
                fmt::format("call {}/{} is being executed; wait for its answer", id.request.value, id.attempt));
  }
  if (answered_.contains(id)) {
    return fail(errc::conflict, fmt::format("call {}/{} was answered already; a new try needs a new attempt number",
                                            id.request.value, id.attempt));
  }
  if (closed_) return fail(errc::unavailable, "this expert node is stopping; use another replica");
  if (in_flight_.size() >= bounds_.calls_max || rows_ + rows > bounds_.rows_max || bytes_ + bytes > bounds_.bytes_max) {
    return fail(errc::overloaded,
                fmt::format("{} calls with {} rows and {} bytes are in flight, {} rows and {} bytes more exceed the "
                            "limits of {} calls, {} rows, {} bytes; retry later or use another replica",
                            in_flight_.size(), rows_, bytes_, rows, bytes, bounds_.calls_max, bounds_.rows_max,
                            bounds_.bytes_max));
  }
  in_flight_.emplace(id, entry{rows, bytes});
  rows_ += rows;
  bytes_ += bytes;
  return {};
}

bool call_ledger::settle(const call_id& id) {
  auto found = in_flight_.find(id);
  if (found == in_flight_.end()) return false;
  rows_ -= found->second.rows;
  bytes_ -= found->second.bytes;
  in_flight_.erase(found);
  remember(id);
  return true;
}

void call_ledger::remember(const call_id& id) {
  if (bounds_.answered_max == 0) return;
  while (answered_order_.size() >= bounds_.answered_max) {
    answered_.erase(answered_order_.front());
    answered_order_.pop_front();
  }
  answered_.insert(id);
  answered_order_.push_back(id);
}

}  // namespace troupe::expert
