// The CPU device: packed experts in an arena, products by the fastest kernel of the processor (product.hpp).
#include <algorithm>
#include <chrono>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/device.hpp"
#include "compute/expert_engine.hpp"
#include "compute/slots.hpp"
#include "compute/work_team.hpp"

namespace troupe::compute {
namespace {

class cpu_device final : public device {
 public:
  cpu_device(std::shared_ptr<const product_kernel> kernel, std::shared_ptr<work_team> team)
      : slots_(kernel->type(), kernel->form()), engine_(std::move(kernel), std::move(team)) {}

  device_info info() const override {
    return {.name = "cpu",
            .description = fmt::format("{}, {}, {}, {} thread{}", processor_name(), describe_processor_path(),
                                       engine_.kernel().name(), engine_.threads(), engine_.threads() == 1 ? "" : "s"),
            .type = engine_.kernel().type(),
            .threads = engine_.threads(),
            .free_bytes = std::nullopt,
            .scratch_bytes = engine_.scratch_bytes()};
  }

  std::size_t slot_bytes(const model::expert_shape& shape) const override { return slots_.packed(shape).bytes(); }

  result<void> reserve(std::uint32_t slots, std::size_t bytes_per_slot) override {
    auto done = slots_.reserve(slots, bytes_per_slot);
    if (!done) return done;
    engine_.limit_scratch(
        std::max(limits::device_scratch_bytes_min, slots_.arena_bytes() / limits::device_scratch_arena_share));
    return {};
  }

  result<void> load(slot_index slot, const model::bundle_layout& layout, std::span<const std::byte> bundle) override {
    return slots_.load(slot, layout, bundle);
  }

  result<void> export_bundle(slot_index slot, const model::bundle_layout& layout,
                             std::span<std::byte> target) const override {
    return slots_.export_bundle(slot, layout, target);
  }

  void unload(slot_index slot) override { slots_.unload(slot); }

  result<void> run(const batch& work, std::span<group_report> reports) override {
    auto started = std::chrono::steady_clock::now();
    const auto holds = [&](slot_index slot) { return slots_.find(slot, work.shape) != nullptr; };
    if (auto fine = check_batch(work, reports, holds, engine_.kernel().type(), rows_); !fine) return fine;
    groups_.clear();
    for (const auto& group : work.groups) {
      groups_.push_back(
          {.slot = slots_.find(group.slot, work.shape), .rows = group.rows, .weights = group.gate_weights});
    }
    norms_.assign(groups_.size(), 0.0);
    auto expert = slots_.packed(work.shape);
    auto done = engine_.run({.expert = &expert,
                             .inputs = rows_.inputs,
                             .outputs = rows_.outputs,
                             .mode = row_output::store,
                             .groups = groups_},
                            norms_);
    if (!done) return done;
    for (std::size_t g = 0; g < norms_.size(); ++g) reports[g].weighted_norm_sum = norms_[g];
    std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
    share_seconds(taken.count(), work, reports);
    return {};
  }

 private:
  slot_table slots_;
  expert_engine engine_;
  batch_rows rows_;
  std::vector<engine_group> groups_;
  std::vector<double> norms_;
};

}  // namespace

result<std::unique_ptr<device>> make_cpu_device(const cpu_options& options) {
  if (auto fine = check_options(options); !fine) return fail(fine.error());
  auto kernel = make_product_kernel(options.type);
  if (!kernel) return fail(kernel.error());
  auto team = work_team::start(options.threads, "a device");
  if (!team) return fail(team.error());
  return std::make_unique<cpu_device>(*kernel, std::move(*team));
}

}  // namespace troupe::compute
