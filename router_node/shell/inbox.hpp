// What other threads want from the router's thread: a bounded queue with a wake-up.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "common/wire/socket.hpp"

namespace troupe::router {

// Thread rule: put() and size() from any thread, the rest on the router's.
template <class Item>
class inbox {
 public:
  explicit inbox(wire::wake_signal wake) : wake_(std::move(wake)) {}

  // overloaded when the queue is full. Items that must not be lost (maps, stop) are put with put_always().
  [[nodiscard]] result<void> put(Item item) {
    {
      std::lock_guard lock(mutex_);
      if (items_.size() >= limits::router_inbox_max) {
        return fail(errc::overloaded, "too many requests wait for the router; retry later");
      }
      items_.push_back(std::move(item));
    }
    wake_.wake();
    return {};
  }

  void put_always(Item item) {
    {
      std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    wake_.wake();
  }

  [[nodiscard]] std::vector<Item> take() {
    wake_.clear();
    std::lock_guard lock(mutex_);
    return std::exchange(items_, {});
  }

  [[nodiscard]] std::size_t size() const {
    std::lock_guard lock(mutex_);
    return items_.size();
  }

  [[nodiscard]] const wire::wake_signal& signal() const { return wake_; }

 private:
  wire::wake_signal wake_;
  mutable std::mutex mutex_;
  std::vector<Item> items_;
};

}  // namespace troupe::router
