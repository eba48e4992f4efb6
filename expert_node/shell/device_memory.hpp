// The part of a device that threads other than its own may touch, one at a time: filling, emptying and reading slots.
// The host hands it out when the device stands and cuts it off before the device goes. Any thread.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <shared_mutex>
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
  [[nodiscard]] result<void> adopt(slot_index slot, const model::bundle_layout& layout);
  // compute::device::slot_memory, while `use` runs: the device stays that long, and others go on meanwhile.
  // invalid_request: the device has no memory of its own, or no such slot.
  [[nodiscard]] result<void> lend(slot_index slot, const model::expert_shape& shape,
                                  const std::function<result<void>(std::span<std::byte>)>& use);
  [[nodiscard]] std::size_t slot_bytes(const model::expert_shape& shape);

  // Waits for the calls in progress; later ones fail.
  void detach();

 private:
  std::shared_mutex lent_;  // held by those to whom memory is lent; taken before mutex_
  std::mutex mutex_;
  compute::device* device_;  // guarded by mutex_; nullptr once detached
};

}  // namespace troupe::expert
