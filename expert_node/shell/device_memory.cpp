#include "expert_node/shell/device_memory.hpp"

#include "compute/device.hpp"

namespace troupe::expert {
namespace {

tl::unexpected<error> gone() { return fail(errc::unavailable, "the device of this node has been released"); }

}  // namespace

result<void> device_memory::load(slot_index slot, const model::bundle_layout& layout,
                                 std::span<const std::byte> bundle) {
  std::lock_guard lock{mutex_};
  return device_ == nullptr ? result<void>{gone()} : device_->load(slot, layout, bundle);
}

result<void> device_memory::export_bundle(slot_index slot, const model::bundle_layout& layout,
                                          std::span<std::byte> target) {
  std::lock_guard lock{mutex_};
  return device_ == nullptr ? result<void>{gone()} : device_->export_bundle(slot, layout, target);
}

void device_memory::unload(slot_index slot) {
  std::lock_guard lock{mutex_};
  if (device_ != nullptr) device_->unload(slot);
}

std::size_t device_memory::slot_bytes(const model::expert_shape& shape) {
  std::lock_guard lock{mutex_};
  return device_ == nullptr ? 0 : device_->slot_bytes(shape);
}

void device_memory::detach() {
  std::lock_guard lock{mutex_};
  device_ = nullptr;
}

}  // namespace troupe::expert
