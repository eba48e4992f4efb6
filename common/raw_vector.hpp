// A vector whose new elements are not cleared: for large buffers that are written whole right away.
#pragma once

#include <memory>
#include <utility>
#include <vector>

namespace troupe {

template <class T>
class uninitialised_allocator : public std::allocator<T> {
 public:
  template <class U>
  struct rebind {
    using other = uninitialised_allocator<U>;
  };
  uninitialised_allocator() = default;
  template <class U>
  explicit uninitialised_allocator(const uninitialised_allocator<U>&) {}

  template <class U>
  void construct(U* place) {
    ::new (static_cast<void*>(place)) U;
  }
  template <class U, class... Arguments>
  void construct(U* place, Arguments&&... arguments) {
    ::new (static_cast<void*>(place)) U(std::forward<Arguments>(arguments)...);
  }
};

// T of a kind that need not be initialised: numbers and bytes.
template <class T>
using raw_vector = std::vector<T, uninitialised_allocator<T>>;

}  // namespace troupe
