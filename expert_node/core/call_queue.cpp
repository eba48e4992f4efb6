#include "expert_node/core/call_queue.hpp"

#include <algorithm>
#include <utility>

namespace troupe::expert {

call_queue::call_queue(std::uint32_t batch_rows_max) : batch_rows_max_{batch_rows_max} {}

void call_queue::add(call_handle call) {
  ++calls_;
  rows_ += call->rows;
  auto layer = call->layer;
  waiting_[layer].push_back(entry{next_sequence_++, std::move(call)});
}

std::vector<call_handle> call_queue::take_expired(time_point now) {
  std::vector<call_handle> expired;
  for (auto layer = waiting_.begin(); layer != waiting_.end();) {
    std::erase_if(layer->second, [&](entry& waiting) {
      if (waiting.call->deadline > now) return false;
      forget(*waiting.call);
      expired.push_back(std::move(waiting.call));
      return true;
    });
    layer = layer->second.empty() ? waiting_.erase(layer) : std::next(layer);
  }
  return expired;
}

std::vector<call_handle> call_queue::take_batch() {
  std::vector<call_handle> batch;
  if (waiting_.empty()) return batch;
  auto oldest = std::min_element(waiting_.begin(), waiting_.end(), [](const auto& left, const auto& right) {
    return left.second.front().sequence < right.second.front().sequence;
  });
  auto& calls = oldest->second;
  std::uint64_t rows = 0;
  do {
    rows += calls.front().call->rows;
    forget(*calls.front().call);
    batch.push_back(std::move(calls.front().call));
    calls.pop_front();
  } while (!calls.empty() && rows + calls.front().call->rows <= batch_rows_max_);
  if (calls.empty()) waiting_.erase(oldest);
  return batch;
}

void call_queue::forget(const expert_call& call) {
  --calls_;
  rows_ -= call.rows;
}

}  // namespace troupe::expert
