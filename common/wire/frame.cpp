#include "common/wire/frame.hpp"

#include <cstring>
#include <new>
#include <utility>

namespace troupe::wire {
namespace {

void release_owner(void* /*data*/, void* hint) { delete static_cast<std::shared_ptr<const void>*>(hint); }

}  // namespace

frame::frame() { zmq_msg_init(&message_); }

frame::~frame() { zmq_msg_close(&message_); }

frame::frame(frame&& other) noexcept : frame() { zmq_msg_move(&message_, &other.message_); }

frame& frame::operator=(frame&& other) noexcept {
  if (this != &other) zmq_msg_move(&message_, &other.message_);
  return *this;
}

frame frame::of_size(std::size_t bytes) {
  frame made;
  if (zmq_msg_init_size(&made.message_, bytes) != 0) throw std::bad_alloc();
  return made;
}

frame frame::copy_of(std::span<const std::byte> bytes) {
  auto made = of_size(bytes.size());
  if (!bytes.empty()) std::memcpy(made.writable().data(), bytes.data(), bytes.size());
  return made;
}

frame frame::copy_of(std::string_view text) { return copy_of(std::as_bytes(std::span(text))); }

frame frame::sharing(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  auto hint = std::make_unique<std::shared_ptr<const void>>(std::move(owner));
  frame made;
  // libzmq only reads the bytes of a message that is sent.
  auto* data = const_cast<std::byte*>(bytes.data());
  if (zmq_msg_init_data(&made.message_, data, bytes.size(), release_owner, hint.get()) != 0) throw std::bad_alloc();
  hint.release();
  return made;
}

std::span<const std::byte> frame::bytes() const {
  return {static_cast<const std::byte*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
}

std::span<std::byte> frame::writable() {
  return {static_cast<std::byte*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
}

std::string_view frame::metadata(const char* name) const {
  const char* text = zmq_msg_gets(&message_, name);
  return text == nullptr ? std::string_view{} : std::string_view{text};
}

}  // namespace troupe::wire
