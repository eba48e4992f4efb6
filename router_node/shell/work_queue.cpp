#include "router_node/shell/work_queue.hpp"

#include <utility>

#include "common/limits.hpp"

namespace troupe::router {

work_queue::work_queue(std::size_t waiting_max) : waiting_max_(waiting_max), thread_([this] { run(); }) {}

work_queue::~work_queue() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

result<void> work_queue::put(std::size_t bytes, std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    if (items_.size() >= waiting_max_ || bytes_ + bytes > limits::prompts_waiting_bytes_max) {
      return fail(errc::overloaded, "too many requests wait to be read; retry later, or at another router");
    }
    bytes_ += bytes;
    items_.push_back({bytes, std::move(work)});
  }
  changed_.notify_one();
  return {};
}

void work_queue::run() {
  while (true) {
    item next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !items_.empty(); });
      if (stopping_) return;
      next = std::move(items_.front());
      items_.pop_front();
    }
    next.work();
    std::lock_guard lock(mutex_);
    bytes_ -= next.bytes;
  }
}

}  // namespace troupe::router
