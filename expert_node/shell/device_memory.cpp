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

result<void> device_memory::adopt(slot_index slot, const model::bundle_layout& layout) {
  std::lock_guard lock{mutex_};
  return device_ == nullptr ? result<void>{gone()} : device_->adopt(slot, layout);
}

result<void> device_memory::lend(slot_index slot, const model::expert_shape& shape,
                                 const std::function<result<void>(std::span<std::byte>)>& use) {
  std::shared_lock stays{lent_};
  std::span<std::byte> memory;
  {
    std::lock_guard lock{mutex_};
    if (device_ == nullptr) return gone();
    memory = device_->slot_memory(slot, shape);
  }
  if (memory.empty()) return fail(errc::invalid_request, "this node's slots do not lie in a GPU's memory");
  return use(memory);
}

std::size_t device_memory::slot_bytes(const model::expert_shape& shape) {
  std::lock_guard lock{mutex_};
  return device_ == nullptr ? 0 : device_->slot_bytes(shape);
}

void device_memory::detach() {
  std::unique_lock nobody_uses_it{lent_};
  std::lock_guard lock{mutex_};
  device_ = nullptr;
}

}  // namespace troupe::expert
