// A Protobuf message that lives for one scope, with all that is in it, in memory of that scope: a call of an expert
// makes four of them, and each would take some twenty small allocations.
#pragma once

#include <google/protobuf/arena.h>

#include <cstddef>

namespace troupe::wire {

// One thread at a time. Larger messages go on in memory from the heap.
template <class Message>
class scratch_message {
 public:
  scratch_message() : arena_(options(block_, sizeof block_)) {}
  scratch_message(const scratch_message&) = delete;
  scratch_message& operator=(const scratch_message&) = delete;
  [[nodiscard]] Message& operator*() { return *message_; }
  [[nodiscard]] Message* operator->() { return message_; }

 private:
  static google::protobuf::ArenaOptions options(char* block, std::size_t bytes) {
    google::protobuf::ArenaOptions made;
    made.initial_block = block;
    made.initial_block_size = bytes;
    return made;
  }

  alignas(std::max_align_t) char block_[4096];  // not cleared
  google::protobuf::Arena arena_;
  Message* message_{google::protobuf::Arena::CreateMessage<Message>(&arena_)};
};

}  // namespace troupe::wire
