// One thread that does work which would hold up the router's: long prompts are put into tokens here, in the order in
// which they came. Bounded in count and bytes.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "common/error.hpp"

namespace troupe::router {

class work_queue {
 public:
  work_queue();
  // What has not begun is not done any more.
  ~work_queue();
  work_queue(const work_queue&) = delete;
  work_queue& operator=(const work_queue&) = delete;

  // Any thread. `bytes`: what the work holds. overloaded past limits::prompts_waiting_max or _bytes_max.
  [[nodiscard]] result<void> put(std::size_t bytes, std::function<void()> work);

 private:
  struct item {
    std::size_t bytes{};
    std::function<void()> work;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  // protected by mutex_
  std::deque<item> items_;
  std::size_t bytes_{};
  bool stopping_{};
  std::thread thread_;
};

}  // namespace troupe::router
