// The GPU device: experts in one allocation, a batch in a handful of launches whatever the number of its experts. It
// knows no CUDA: a gpu_runtime does what it asks for.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/device.hpp"
#include "compute/gpu_batch.hpp"
#include "compute/gpu_memory.hpp"
#include "compute/gpu_runtime.hpp"
#include "compute/packing.hpp"
#include "compute/slots.hpp"

namespace troupe::compute {
namespace {

constexpr std::size_t bus_piece_bytes = limits::mib / 4;

// A piece of memory that grows. Its content is lost when it does.
class growing_memory {
 public:
  growing_memory(gpu_runtime& runtime, bool is_host) : runtime_(runtime), is_host_(is_host) {}
  growing_memory(const growing_memory&) = delete;
  growing_memory& operator=(const growing_memory&) = delete;
  ~growing_memory() { drop(); }

  // @pre nothing that was asked of the runtime still uses it
  result<void> reach(std::size_t bytes) {
    if (bytes <= bytes_) return {};
    drop();
    auto made = is_host_ ? runtime_.allocate_host(bytes) : runtime_.allocate(bytes);
    if (!made) return fail(made.error());
    begin_ = *made;
    bytes_ = bytes;
    return {};
  }
  void drop() {
    is_host_ ? runtime_.release_host(begin_) : runtime_.release(begin_);
    begin_ = nullptr;
    bytes_ = 0;
  }
  [[nodiscard]] std::byte* begin() const { return begin_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  gpu_runtime& runtime_;
  bool is_host_;
  std::byte* begin_{};
  std::size_t bytes_{};
};

// Cuts a piece of memory into aligned parts.
class cutter {
 public:
  std::size_t take(std::size_t bytes) { return std::exchange(end_, end_ + gpu_aligned(bytes)); }
  [[nodiscard]] std::size_t end() const { return end_; }

 private:
  std::size_t end_{};
};

expert_form form_of(const packed_expert& expert) {
  return {.type = expert.first.type,
          .act = expert.shape.act,
          .is_gated = model::is_gated(expert.shape.act),
          .has_bias = expert.shape.has_bias,
          .hidden = expert.shape.hidden,
          .width = expert.shape.width,
          .first_inputs = expert.first.inputs(),
          .first_outputs = expert.parts() * expert.first.outputs(),
          .second_inputs = expert.second.inputs(),
          .second_outputs = expert.second.outputs(),
          .second_offset = expert.second_offset(0),
          .gate_bias_offset = expert.gate_bias_offset(),
          .up_bias_offset = expert.up_bias_offset(),
          .down_bias_offset = expert.down_bias_offset()};
}

// Where the parts of one pass lie.
struct pass_layout {
  std::size_t rows{}, slots{}, row_of{}, group_of{}, by_row{}, weight{}, first_of{}, input_bytes{};  // host -> device
  std::size_t out{}, norm{}, result_bytes{};                                                         // device -> host
  std::size_t y{}, scratch{}, scratch_bytes{};

  pass_layout(const gpu_pass& pass, const expert_form& form, const gpu_runtime& runtime) {
    const std::size_t assignments = pass.assignments();
    const std::size_t element = bytes_per_element(form.type);
    const auto row_bytes = std::size_t{pass.rows} * form.hidden * element;
    cutter input;
    rows = input.take(row_bytes);
    slots = input.take(pass.groups.size() * sizeof(const std::byte*));
    for (auto* list : {&row_of, &group_of, &by_row, &weight}) *list = input.take(assignments * sizeof(std::uint32_t));
    first_of = input.take(pass.first_of.size() * sizeof(std::uint32_t));
    input_bytes = input.end();
    cutter result;
    out = result.take(row_bytes);
    norm = result.take(assignments * sizeof(float));
    result_bytes = result.end();
    cutter between;
    y = between.take(assignments * form.second_outputs * element);
    scratch = between.take(runtime.scratch_bytes(form, assignments));
    scratch_bytes = between.end();
  }
};

class gpu_device final : public device {
 public:
  gpu_device(std::unique_ptr<gpu_runtime> runtime, dtype type)
      : runtime_(std::move(runtime)), facts_(runtime_->facts()), type_(type) {}
  ~gpu_device() override { runtime_->release(arena_); }

  device_info info() const override {
    return {.name = facts_.name,
            .description = facts_.description,
            .type = type_,
            .threads = 1,
            .free_bytes = facts_.free_bytes,
            .scratch_bytes = input_.bytes() + result_.bytes() + scratch_.bytes()};
  }

  std::size_t slot_bytes(const model::expert_shape& shape) const override { return gpu_aligned(packed(shape).bytes()); }

  result<void> reserve(std::uint32_t slots, std::size_t bytes_per_slot) override {
    if (contents_.size() != 0) {
      return fail(errc::invalid_request,
                  fmt::format("this device has {} slots already; reserve is called once", contents_.size()));
    }
    if (slots == 0 || slots > limits::device_slots_max || bytes_per_slot == 0) {
      return fail(errc::invalid_request, fmt::format("{} slots of {} bytes; use 1 to {} slots", slots, bytes_per_slot,
                                                     limits::device_slots_max));
    }
    slot_bytes_ = gpu_aligned(bytes_per_slot);
    auto made = runtime_->allocate(slots * slot_bytes_);
    if (!made) return fail(made.error());
    arena_ = *made;
    contents_.resize(slots);
    return {};
  }

  result<void> load(slot_index slot, const model::bundle_layout& layout, std::span<const std::byte> bundle) override {
    const auto expert = packed(layout.shape);
    auto plan = contents_.check_load(slot, layout, bundle.size(), expert.bytes(), slot_bytes_);
    if (!plan) return fail(plan.error());
    if (auto room = staged_expert_.reach(slot_bytes_); !room) return room;
    expert.pack(*plan, bundle.data(), staged_expert_.begin());
    if (auto done = move_expert(expert.bytes(),
                                [&](std::size_t begin, std::size_t bytes) {
                                  runtime_->upload(gpu_stream::load, at(slot) + begin, staged_expert_.begin() + begin,
                                                   bytes);
                                });
        !done) {
      return done;
    }
    contents_.set(slot, layout.shape);
    return {};
  }

  result<void> export_bundle(slot_index slot, const model::bundle_layout& layout,
                             std::span<std::byte> target) const override {
    auto plan = contents_.check_export(slot, layout, target.size(), type_);
    if (!plan) return fail(plan.error());
    const auto expert = packed(layout.shape);
    if (auto room = staged_expert_.reach(slot_bytes_); !room) return room;
    if (auto done = move_expert(expert.bytes(),
                                [&](std::size_t begin, std::size_t bytes) {
                                  runtime_->download(gpu_stream::load, staged_expert_.begin() + begin, at(slot) + begin,
                                                     bytes);
                                });
        !done) {
      return done;
    }
    expert.unpack(*plan, staged_expert_.begin(), target.data());
    return {};
  }

  void unload(slot_index slot) override { contents_.clear(slot); }

  std::span<std::byte> slot_memory(slot_index slot, const model::expert_shape& shape) const override {
    const auto bytes = packed(shape).bytes();
    if (slot.value >= contents_.size() || bytes > slot_bytes_) return {};
    return {at(slot), bytes};
  }

  result<void> adopt(slot_index slot, const model::bundle_layout& layout) override {
    auto plan = contents_.check_load(slot, layout, layout.bytes(), packed(layout.shape).bytes(), slot_bytes_);
    if (!plan) return fail(plan.error());
    contents_.set(slot, layout.shape);
    auto exact = contents_.check_export(slot, layout, layout.bytes(), type_);
    if (exact) return {};
    contents_.clear(slot);
    return fail(exact.error());
  }

  result<void> run(const batch& work, std::span<group_report> reports) override {
    const auto started = std::chrono::steady_clock::now();
    const auto is_held = [&](slot_index slot) { return contents_.holds(slot, work.shape); };
    if (auto fine = check_batch(work, reports, is_held, type_, rows_); !fine) return fine;
    for (auto& report : reports) report.weighted_norm_sum = 0;
    const auto form = form_of(packed(work.shape));
    const pass_layout one(single_row(), form, *runtime_);
    const auto bytes_max = gpu_pass_bytes(facts_.total_bytes);
    const auto assignments_max = std::max<std::size_t>(1, bytes_max / one.scratch_bytes);
    const auto rows_max = std::max<std::size_t>(1, bytes_max / one.result_bytes);
    for (const auto& pass :
         cut_into_passes(work, static_cast<std::uint32_t>(rows_.inputs.size()),
                         static_cast<std::uint32_t>(assignments_max), static_cast<std::uint32_t>(rows_max))) {
      if (auto done = run_pass(work, pass, form, reports); !done) return done;
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
    share_seconds(taken.count(), work, reports);
    return {};
  }

  bool is_lost() const override { return runtime_->is_lost(); }

 private:
  [[nodiscard]] packed_expert packed(const model::expert_shape& shape) const {
    return packed_expert::of(shape, type_, panel_form::rows);
  }
  [[nodiscard]] std::byte* at(slot_index slot) const { return arena_ + slot.value * slot_bytes_; }
  // move(begin, bytes), piece by piece: a batch's rows wait for one piece on the bus, not for a whole expert.
  template <class Move>
  result<void> move_expert(std::size_t bytes, Move move) const {
    for (std::size_t begin = 0; begin < bytes; begin += bus_piece_bytes) {
      move(begin, std::min(bus_piece_bytes, bytes - begin));
      if (auto done = runtime_->finish(gpu_stream::load); !done) return done;
    }
    return {};
  }
  // A pass of one row and one assignment: what each more of them takes at most.
  static gpu_pass single_row() {
    return {.rows = 1, .row_of = {0}, .group_of = {0}, .weight = {0}, .first_of = {0, 1}, .by_row = {0}, .groups = {0}};
  }

  result<void> run_pass(const batch& work, const gpu_pass& pass, const expert_form& form,
                        std::span<group_report> reports) {
    const pass_layout layout(pass, form, *runtime_);
    for (auto [memory, bytes] : {std::pair{&staged_input_, layout.input_bytes},
                                 {&input_, layout.input_bytes},
                                 {&staged_result_, layout.result_bytes},
                                 {&result_, layout.result_bytes},
                                 {&scratch_, layout.scratch_bytes}}) {
      if (auto room = memory->reach(bytes); !room) return room;
    }
    const auto row_bytes = form.hidden * bytes_per_element(type_);
    stage(work, pass, layout, row_bytes);
    runtime_->upload(gpu_stream::compute, input_.begin(), staged_input_.begin(), layout.input_bytes);
    if (pass.assignments() > 0) launch_products(work, pass, layout, form);
    launch_combine(pass, layout, form);
    runtime_->download(gpu_stream::compute, staged_result_.begin(), result_.begin(), layout.result_bytes);
    if (auto done = runtime_->finish(gpu_stream::compute); !done) return done;
    take_result(pass, layout, row_bytes, reports);
    return {};
  }

  // Everything that the device reads goes up in one piece.
  void stage(const batch& work, const gpu_pass& pass, const pass_layout& layout, std::size_t row_bytes) {
    auto* to = staged_input_.begin();
    for (std::uint32_t r = 0; r < pass.rows; ++r) {
      std::memcpy(to + layout.rows + r * row_bytes, rows_.inputs[pass.first_row + r], row_bytes);
    }
    for (std::size_t g = 0; g < pass.groups.size(); ++g) {
      const std::byte* slot = at(work.groups[pass.groups[g]].slot);
      std::memcpy(to + layout.slots + g * sizeof slot, &slot, sizeof slot);
    }
    const auto put = [&](std::size_t offset, const auto& list) {
      if (!list.empty()) std::memcpy(to + offset, list.data(), list.size() * sizeof list[0]);
    };
    put(layout.row_of, pass.row_of);
    put(layout.group_of, pass.group_of);
    put(layout.by_row, pass.by_row);
    put(layout.weight, pass.weight);
    put(layout.first_of, pass.first_of);
  }

  template <class Element>
  [[nodiscard]] const Element* input_at(std::size_t offset) const {
    return reinterpret_cast<const Element*>(input_.begin() + offset);
  }

  void launch_products(const batch& work, const gpu_pass& pass, const pass_layout& layout, const expert_form& form) {
    groups_.clear();
    for (std::size_t g = 0; g < pass.groups.size(); ++g) {
      groups_.push_back({.slot = work.groups[pass.groups[g]].slot.value,
                         .begin = pass.begin_of[g],
                         .rows = pass.begin_of[g + 1] - pass.begin_of[g]});
    }
    runtime_->multiply({.form = form,
                        .arena = arena_,
                        .slot_bytes = slot_bytes_,
                        .slots = static_cast<std::uint32_t>(contents_.size()),
                        .groups = groups_,
                        .rows = input_at<std::byte>(layout.rows),
                        .row_of = input_at<std::uint32_t>(layout.row_of),
                        .group_of = input_at<std::uint32_t>(layout.group_of),
                        .slot_of_group = input_at<const std::byte*>(layout.slots),
                        .assignments = pass.assignments(),
                        .y = scratch_.begin() + layout.y,
                        .scratch = scratch_.begin() + layout.scratch});
  }

  void launch_combine(const gpu_pass& pass, const pass_layout& layout, const expert_form& form) {
    std::uint32_t per_row_max = 0;
    for (std::uint32_t r = 0; r < pass.rows; ++r) {
      per_row_max = std::max(per_row_max, pass.first_of[r + 1] - pass.first_of[r]);
    }
    runtime_->combine({.form = form,
                       .y = scratch_.begin() + layout.y,
                       .first_of = input_at<std::uint32_t>(layout.first_of),
                       .by_row = input_at<std::uint32_t>(layout.by_row),
                       .weight = input_at<float>(layout.weight),
                       .group_of = input_at<std::uint32_t>(layout.group_of),
                       .slot_of_group = input_at<const std::byte*>(layout.slots),
                       .out = result_.begin() + layout.out,
                       .norm = reinterpret_cast<float*>(result_.begin() + layout.norm),
                       .rows = pass.rows,
                       .assignments = pass.assignments(),
                       .per_row_max = per_row_max});
  }

  void take_result(const gpu_pass& pass, const pass_layout& layout, std::size_t row_bytes,
                   std::span<group_report> reports) {
    const auto* from = staged_result_.begin();
    for (std::uint32_t r = 0; r < pass.rows; ++r) {
      std::memcpy(rows_.outputs[pass.first_row + r], from + layout.out + r * row_bytes, row_bytes);
    }
    for (std::uint32_t a = 0; a < pass.assignments(); ++a) {
      float norm = 0;
      std::memcpy(&norm, from + layout.norm + a * sizeof norm, sizeof norm);
      reports[pass.groups[pass.group_of[a]]].weighted_norm_sum += norm;
    }
  }

  std::unique_ptr<gpu_runtime> runtime_;
  gpu_facts facts_;  // asking the driver takes long
  dtype type_;
  std::byte* arena_{};
  std::size_t slot_bytes_{};
  slot_contents contents_;
  // Of one pass: on the device, and what is copied to and from it.
  growing_memory input_{*runtime_, false}, result_{*runtime_, false}, scratch_{*runtime_, false};
  growing_memory staged_input_{*runtime_, true}, staged_result_{*runtime_, true};
  mutable growing_memory staged_expert_{*runtime_, true};  // of the thread that loads and exports
  batch_rows rows_;
  std::vector<expert_rows> groups_;
};

}  // namespace

result<std::unique_ptr<device>> make_gpu_device(std::unique_ptr<gpu_runtime> runtime, dtype type) {
  if (type != dtype::f32 && type != dtype::bf16) {
    return fail(errc::invalid_request,
                fmt::format("a GPU computes in f32 or bf16, not in {}; use --dtype f32 or bf16", to_string(type)));
  }
  return std::make_unique<gpu_device>(std::move(runtime), type);
}

}  // namespace troupe::compute
