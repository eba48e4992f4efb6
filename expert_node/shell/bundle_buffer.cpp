#include "expert_node/shell/bundle_buffer.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

namespace troupe::expert {

result<bundle_buffer> bundle_buffer::make(std::size_t bytes) {
  bundle_buffer buffer;
  if (bytes == 0) return buffer;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return fail(errc::out_of_memory, fmt::format("no {} bytes for a bundle on its way: {}; give the node fewer slots",
                                                 bytes, std::strerror(errno)));
  }
  ::madvise(memory, bytes, MADV_HUGEPAGE);  // every page is written once; where there are none, small ones do
  buffer.bytes_ = {static_cast<std::byte*>(memory), bytes};
  return buffer;
}

bundle_buffer bundle_buffer::of(std::shared_ptr<const wire::shared_segment> segment, std::size_t bytes) {
  bundle_buffer buffer;
  buffer.bytes_ = segment->bytes().first(bytes);
  buffer.segment_ = std::move(segment);
  return buffer;
}

bundle_buffer::bundle_buffer(bundle_buffer&& other) noexcept
    : bytes_{std::exchange(other.bytes_, {})}, segment_{std::move(other.segment_)} {}

bundle_buffer& bundle_buffer::operator=(bundle_buffer&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(segment_, other.segment_);
  return *this;
}

bundle_buffer::~bundle_buffer() {
  if (!bytes_.empty() && !segment_) ::munmap(bytes_.data(), bytes_.size());
}

}  // namespace troupe::expert
