// A file descriptor that is closed when it goes out of scope; mappings of it live on. One thread.
#pragma once

#include <unistd.h>

namespace troupe::wire {

class descriptor {
 public:
  explicit descriptor(int number) : number_(number) {}
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_;
};

}  // namespace troupe::wire
