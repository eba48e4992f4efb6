// One part of a ZeroMQ message: owns its bytes, or keeps alive whoever owns them. One thread at a time.
#pragma once

#include <zmq.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

namespace troupe::wire {

class frame {
 public:
  frame();
  ~frame();
  // Moving invalidates spans of frames up to 33 bytes (libzmq keeps those inside the handle).
  frame(frame&& other) noexcept;
  frame& operator=(frame&& other) noexcept;
  frame(const frame&) = delete;
  frame& operator=(const frame&) = delete;

  // Uninitialised bytes to be written through writable(). std::bad_alloc when there is no memory.
  [[nodiscard]] static frame of_size(std::size_t bytes);
  [[nodiscard]] static frame copy_of(std::span<const std::byte> bytes);
  [[nodiscard]] static frame copy_of(std::string_view text);
  // No copy: `owner` is held until libzmq has sent the bytes, and is released on one of libzmq's threads.
  [[nodiscard]] static frame sharing(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

  [[nodiscard]] std::span<const std::byte> bytes() const;
  [[nodiscard]] std::span<std::byte> writable();
  [[nodiscard]] std::size_t size() const { return bytes().size(); }
  // Text that libzmq attached on receipt, such as "User-Id" or "Peer-Address"; empty when there is none.
  [[nodiscard]] std::string_view metadata(const char* name) const;
  // For zmq_msg_send and zmq_msg_recv.
  [[nodiscard]] zmq_msg_t* handle() { return &message_; }

 private:
  // libzmq's accessors take a non-const pointer but do not write.
  mutable zmq_msg_t message_;
};

}  // namespace troupe::wire
