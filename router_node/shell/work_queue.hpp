// One thread that does work which would hold up others: prompts are put into tokens here, in the order in which they
// came. Bounded in count and bytes.
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
  // `waiting_max`: pieces of work.
  explicit work_queue(std::size_t waiting_max);
  // What has not begun is not done any more.
  ~work_queue();
  work_queue(const work_queue&) = delete;
  work_queue& operator=(const work_queue&) = delete;

  // Any thread. `bytes`: what the work holds. overloaded past `waiting_max` or
  // limits::prompts_waiting_bytes_max.
  [[nodiscard]] result<void> put(std::size_t bytes, std::function<void()> work);

 private:
  struct item {
    std::size_t bytes{};
    std::function<void()> work;
  };
  void run();

  const std::size_t waiting_max_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // protected by mutex_
  std::deque<item> items_;
  std::size_t bytes_{};
  bool stopping_{};
  std::thread thread_;  // last: it uses the rest
};

}  // namespace troupe::router
