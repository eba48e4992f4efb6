// The part of a device that threads other than its own may touch, one at a time: filling, emptying and reading slots.
// The host hands it out when the device stands and cuts it off before the device goes. Any thread.
#pragma once

#include <cstddef>
#include <mutex>
#include <span>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "model/description.hpp"

namespace troupe::compute {
class device;
}

namespace troupe::expert {

class device_memory {
 public:
  explicit device_memory(compute::device& target) : device_{&target} {}

  // As compute::device; unavailable once the device is gone.
  [[nodiscard]] result<void> load(slot_index slot, const model::bundle_layout& layout,
                                  std::span<const std::byte> bundle);
  [[nodiscard]] result<void> export_bundle(slot_index slot, const model::bundle_layout& layout,
                                           std::span<std::byte> target);
  void unload(slot_index slot);
  [[nodiscard]] std::size_t slot_bytes(const model::expert_shape& shape);

  // Waits for the call in progress; later ones fail.
  void detach();

 private:
  std::mutex mutex_;
  compute::device* device_;  // guarded by mutex_; nullptr once detached
};

}  // namespace troupe::expert
