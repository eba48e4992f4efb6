// A thread that does one piece of work after the other; what waits is bounded.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "common/limits.hpp"

namespace troupe::router {

// post() from any thread. What still waits when it is destroyed is dropped.
class text_worker {
 public:
  text_worker() : thread_([this] { run(); }) {}
  ~text_worker() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  text_worker(const text_worker&) = delete;
  text_worker& operator=(const text_worker&) = delete;

  // False when too much waits.
  [[nodiscard]] bool post(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || waiting_.size() >= limits::text_requests_waiting_max) return false;
      waiting_.push_back(std::move(work));
    }
    wake_.notify_one();
    return true;
  }

 private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      const auto work = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      work();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> waiting_;
  bool stopping_{};
  std::thread thread_;  // last: it uses the rest
};

}  // namespace troupe::router
