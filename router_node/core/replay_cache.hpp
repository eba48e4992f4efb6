// Requests that clients may repeat (faults.md W12): one in progress is not begun again, one that has just been answered
// is answered from here. Bounded in bytes and age. Single-threaded plain value.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

namespace troupe::router {

struct client_request {
  std::string client;
  std::uint64_t number{};
  friend bool operator==(const client_request&, const client_request&) = default;
};

// Value: what an answer is.
template <class Value>
class replay_cache {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  replay_cache(std::size_t bytes_max, std::chrono::seconds age_max) : bytes_max_(bytes_max), age_max_(age_max) {}

  enum class state : std::uint8_t { is_new, in_progress, answered };
  struct found {
    state is{state::is_new};
    std::shared_ptr<const Value> answer{};
  };

  // What is known of the request. One that is new is in progress from now on: end it with finish() or forget().
  found begin(const client_request& request, time_point now) {
    expire(now);
    auto [at, is_new] = entries_.try_emplace(request);
    if (is_new) return {state::is_new};
    if (!at->second.answer) return {state::in_progress};
    return {state::answered, at->second.answer};
  }

  // Keeps the answer for a while, if there is room for it at all.
  void finish(const client_request& request, std::shared_ptr<const Value> answer, std::size_t bytes, time_point now) {
    const auto at = entries_.find(request);
    if (at == entries_.end()) return;
    if (bytes > bytes_max_) {
      entries_.erase(at);
      return;
    }
    at->second.answer = std::move(answer);
    order_.push_back({request, bytes, now});
    bytes_ += bytes;
    while (bytes_ > bytes_max_) drop_oldest();
  }

  // It ended without an answer worth keeping: the next one of this name is new.
  void forget(const client_request& request) { entries_.erase(request); }

  void expire(time_point now) {
    while (!order_.empty() && order_.front().since + age_max_ <= now) drop_oldest();
  }

  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t size() const { return entries_.size(); }

 private:
  struct entry {
    std::shared_ptr<const Value> answer;  // null: in progress
  };
  struct kept {
    client_request request;
    std::size_t bytes{};
    time_point since;
  };
  struct hash {
    std::size_t operator()(const client_request& r) const {
      return std::hash<std::string>{}(r.client) ^ (r.number * 0x9e3779b97f4a7c15ULL);
    }
  };

  void drop_oldest() {
    bytes_ -= order_.front().bytes;
    entries_.erase(order_.front().request);
    order_.pop_front();
  }

  std::size_t bytes_max_;
  std::chrono::seconds age_max_;
  std::size_t bytes_{};
  std::unordered_map<client_request, entry, hash> entries_;
  std::list<kept> order_;  // answered ones, oldest first
};

}  // namespace troupe::router
