#include "compute/slots.hpp"

#include <cpuid.h>
#include <cassert>
#include <cstring>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::compute {
namespace {

// Rows at which the arithmetic of an expert costs as much as reading its weights.
constexpr double balance_rows = 32;

// Can the checkpoint's bytes be made again from weights of type `packed`?
result<void> check_exact(const bundle_plan& plan, const expert_id& id, dtype packed) {
  for (const auto* piece : {&plan.gate, &plan.up, &plan.down}) {
    if (piece->out == 0 || is_exact(piece->type, packed)) continue;
    return fail(errc::invalid_request,
                fmt::format("expert {} is stored as {} and was {} to {} when it was loaded; read it from the "
                            "checkpoint instead",
                            to_string(id), model::stored_name(piece->type),
                            model::is_quantised(piece->type) ? "widened" : "rounded", to_string(packed)));
  }
  return {};
}

}  // namespace

// -- contents -----------------------------------------------------------------------------------------------------

bool slot_contents::holds(slot_index slot, const model::expert_shape& shape) const {
  return slot.value < contents_.size() && contents_[slot.value] == shape;
}

result<void> slot_contents::check_index(slot_index slot) const {
  if (slot.value < contents_.size()) return {};
  return fail(errc::invalid_request,
              fmt::format("slot {} does not exist; this device has {} slots", slot.value, contents_.size()));
}

result<bundle_plan> slot_contents::check_load(slot_index slot, const model::bundle_layout& layout,
                                              std::size_t bundle_bytes, std::size_t expert_bytes,
                                              std::size_t slot_bytes) const {
  if (auto fine = check_index(slot); !fine) return fail(fine.error());
  if (contents_[slot.value]) {
    return fail(errc::conflict, fmt::format("slot {} is not empty; unload it first", slot.value));
  }
  auto plan = plan_bundle(layout, bundle_bytes);
  if (!plan) return plan;
  if (expert_bytes > slot_bytes) {
    return fail(errc::invalid_request, fmt::format("expert {} takes {} bytes, a slot has {}; reserve larger slots",
                                                   to_string(layout.id), expert_bytes, slot_bytes));
  }
  return plan;
}

result<bundle_plan> slot_contents::check_export(slot_index slot, const model::bundle_layout& layout,
                                                std::size_t target_bytes, dtype packed) const {
  if (auto fine = check_index(slot); !fine) return fail(fine.error());
  if (!holds(slot, layout.shape)) {
    return fail(errc::invalid_request,
                fmt::format("slot {} {}; export what was loaded there", slot.value,
                            contents_[slot.value] ? "holds an expert of another shape" : "is empty"));
  }
  auto plan = plan_bundle(layout, target_bytes);
  if (!plan) return plan;
  if (auto exact = check_exact(*plan, layout.id, packed); !exact) return fail(exact.error());
  return plan;
}

// -- contents in host memory --------------------------------------------------------------------------------------

result<void> slot_table::reserve(std::uint32_t slots, std::size_t bytes_per_slot) {
  if (arena_.slots() != 0) {
    return fail(errc::invalid_request,
                fmt::format("this device has {} slots already; reserve is called once", arena_.slots()));
  }
  auto made = slot_arena::make(slots, bytes_per_slot);
  if (!made) return fail(made.error());
  arena_ = std::move(*made);
  contents_.resize(slots);
  return {};
}

result<void> slot_table::load(slot_index slot, const model::bundle_layout& layout, std::span<const std::byte> bundle) {
  const auto expert = packed(layout.shape);
  auto plan = contents_.check_load(slot, layout, bundle.size(), expert.bytes(), arena_.bytes_per_slot());
  if (!plan) return fail(plan.error());
  expert.pack(*plan, bundle.data(), arena_.slot(slot).data());
  contents_.set(slot, layout.shape);
  return {};
}

result<void> slot_table::export_bundle(slot_index slot, const model::bundle_layout& layout,
                                       std::span<std::byte> target) const {
  auto plan = contents_.check_export(slot, layout, target.size(), type_);
  if (!plan) return fail(plan.error());
  packed(layout.shape).unpack(*plan, arena_.slot(slot).data(), target.data());
  return {};
}

void slot_table::unload(slot_index slot) {
  if (slot.value >= contents_.size()) return;
  contents_.clear(slot);
  arena_.release(slot);
}

const std::byte* slot_table::find(slot_index slot, const model::expert_shape& shape) const {
  return contents_.holds(slot, shape) ? arena_.slot(slot).data() : nullptr;
}

result<void> check_batch(const batch& work, std::span<group_report> reports,
                         const std::function<bool(slot_index)>& holds, dtype type, batch_rows& rows) {
  if (reports.size() != work.groups.size()) {
    return fail(errc::invalid_request,
                fmt::format("{} reports for {} groups; give one each", reports.size(), work.groups.size()));
  }
  std::size_t row_bytes = work.shape.hidden * bytes_per_element(type);
  rows.inputs.clear();
  rows.outputs.clear();
  for (const auto& segment : work.segments) {
    for (std::size_t r = 0; r < segment.rows; ++r) {
      rows.inputs.push_back(segment.input + r * row_bytes);
      rows.outputs.push_back(segment.output + r * row_bytes);
    }
  }
  for (const auto& group : work.groups) {
    if (!holds(group.slot)) {
      return fail(errc::invalid_request, fmt::format("slot {} holds no expert of hidden {} and width {}; load it first",
                                                     group.slot.value, work.shape.hidden, work.shape.width));
    }
    if (group.rows.size() != group.gate_weights.size()) {
      return fail(errc::invalid_request, fmt::format("slot {} has {} rows and {} gate weights; give one each",
                                                     group.slot.value, group.rows.size(), group.gate_weights.size()));
    }
    for (auto row : group.rows) {
      if (row < rows.inputs.size()) continue;
      return fail(errc::invalid_request, fmt::format("row {} of slot {} is past the batch's {} rows; check the groups",
                                                     row, group.slot.value, rows.inputs.size()));
    }
  }
  return {};
}

std::span<std::byte> device::slot_memory(slot_index, const model::expert_shape&) const { return {}; }

result<void> device::adopt(slot_index, const model::bundle_layout&) {
  return fail(errc::invalid_request, fmt::format("the slots of {} lie in host memory; load the bundle", info().name));
}

void share_seconds(double seconds, const batch& work, std::span<group_report> reports) {
  double total = 0;
  for (const auto& group : work.groups) total += balance_rows + static_cast<double>(group.rows.size());
  for (std::size_t g = 0; g < work.groups.size(); ++g) {
    reports[g].seconds = seconds * (balance_rows + static_cast<double>(work.groups[g].rows.size())) / total;
  }
}

namespace {

std::string read_processor_name() {
  unsigned words[12] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    unsigned* part = words + leaf * 4;
    if (__get_cpuid(0x80000002U + leaf, part, part + 1, part + 2, part + 3) == 0) return "x86-64 processor";
  }
  char text[sizeof words + 1] = {};
  std::memcpy(text, words, sizeof words);
  return text;
}

}  // namespace

// Read once: each CPUID instruction leaves a virtual machine, which takes tens of microseconds.
const std::string& processor_name() {
  static const std::string name = read_processor_name();
  return name;
}

result<void> check_options(const cpu_options& options) {
  if (options.type != dtype::f32 && options.type != dtype::bf16) {
    return fail(errc::invalid_request, fmt::format("the cpu device computes in f32 or bf16, not in {}; use --dtype f32 "
                                                   "or bf16",
                                                   to_string(options.type)));
  }
  if (options.threads == 0 || options.threads > limits::device_threads_max) {
    return fail(errc::invalid_request, fmt::format("a device with {} threads; use --threads 1 to {}", options.threads,
                                                   limits::device_threads_max));
  }
  return {};
}

}  // namespace troupe::compute
