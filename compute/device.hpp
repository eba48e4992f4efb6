// One device (a CPU's worth of threads now, a GPU with the CUDA twin) that holds experts in slots and computes batches.
//
// Thread rule: a device belongs to one thread. Everything but `load`, `unload`, `export_bundle` and `adopt` is called
// from the thread that made it; those may run on one other thread at a time (loading overlaps serving), on slots that
// no `run` names meanwhile: the caller guarantees that. All memory for slots is taken once, by `reserve`.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/tensor.hpp"
#include "model/description.hpp"

namespace troupe::compute {

// Rows of one request: contiguous [rows, H] in the device's dtype, host memory. Outputs of equal size and dtype; fully
// overwritten. Input and output do not overlap.
struct segment {
  const std::byte* input{};
  std::byte* output{};
  std::uint32_t rows{};
};

// All assignments of one expert in a batch. Row numbers count through the segments as if they were one matrix.
struct expert_group {
  slot_index slot;
  std::span<const std::uint32_t> rows;  // [n]; one row at most once per group
  std::span<const float> gate_weights;  // [n]
};

// out[row] = sum over groups of gate_weight * expert(in[row]); f32 sums in the groups' order, whatever the thread
// count.
struct batch {
  model::expert_shape shape;  // of every slot that is named
  std::span<const segment> segments;
  std::span<const expert_group> groups;
};

struct group_report {
  double weighted_norm_sum{};  // sum over rows of |gate_weight| x euclidean norm of the expert's output
  double seconds{};            // device time; an estimate by share of rows and weight bytes where groups run together
};

struct device_info {
  std::string name;         // "cpu", "cuda:0"
  std::string description;  // "Intel(R) Xeon(R), oneDNN 2.6.3, avx512_core_amx, 2 threads"
  dtype type{dtype::bf16};  // of rows and packed weights; sums are f32
  std::uint32_t threads{};
  std::optional<std::uint64_t>
      free_bytes{};             // of the device's own memory, when it was opened; none: it computes in the machine's
  std::size_t scratch_bytes{};  // taken so far beside the slots; bounded by limits::device_scratch_*
};

class device {
 public:
  virtual ~device() = default;
  device(const device&) = delete;
  device& operator=(const device&) = delete;

  [[nodiscard]] virtual device_info info() const = 0;

  // Bytes that one packed expert of this shape takes in a slot, padding included.
  [[nodiscard]] virtual std::size_t slot_bytes(const model::expert_shape& shape) const = 0;
  // Takes the arena: `slots` pieces of `bytes_per_slot`. Once. out_of_memory with both numbers.
  [[nodiscard]] virtual result<void> reserve(std::uint32_t slots, std::size_t bytes_per_slot) = 0;

  // Converts and packs a bundle (bytes as in the checkpoint, in the layout's order) into a slot.
  // @pre bundle.size() == layout.bytes(); the slot is empty and big enough.
  [[nodiscard]] virtual result<void> load(slot_index slot, const model::bundle_layout& layout,
                                          std::span<const std::byte> bundle) = 0;
  // The inverse of load: the checkpoint's bytes again. invalid_request when the conversion lost information (f32 ->
  // bf16, quantised -> any). Only reads: `run` may name the slot meanwhile.
  [[nodiscard]] virtual result<void> export_bundle(slot_index slot, const model::bundle_layout& layout,
                                                   std::span<std::byte> target) const = 0;
  // Empties a slot and gives its pages back to the system.
  virtual void unload(slot_index slot) = 0;

  // For transfers between GPUs (gpu_link.hpp): where an expert of that shape lies, or would lie, in the device's own
  // memory. Empty: in no such memory, or there is no such slot, or none so large.
  [[nodiscard]] virtual std::span<std::byte> slot_memory(slot_index slot, const model::expert_shape& shape) const;
  // The slot's memory was filled that way and holds this expert now, as another device of the same kind and dtype
  // packed it. Unverified: compare the digest of export_bundle. The errors of load, and invalid_request where
  // export_bundle could not give the checkpoint's bytes.
  [[nodiscard]] virtual result<void> adopt(slot_index slot, const model::bundle_layout& layout);

  // Blocks until the outputs are written. reports.size() == batch.groups.size().
  // An error means that nothing of the batch may be used; the slots stay valid unless is_lost().
  [[nodiscard]] virtual result<void> run(const batch& work, std::span<group_report> reports) = 0;

  // After an error: nothing will work any more, and what was in the slots is gone; only a new process helps. Any
  // thread.
  [[nodiscard]] virtual bool is_lost() const { return false; }

 protected:
  device() = default;
};

struct cpu_options {
  dtype type{dtype::bf16};   // f32 or bf16
  std::uint32_t threads{1};  // the device's own, the calling thread included
};

// oneDNN. invalid_request when the processor cannot compute in that type.
[[nodiscard]] result<std::unique_ptr<device>> make_cpu_device(const cpu_options& options);
// Plain loops with f32 weights and sums, for tests and for processors that oneDNN serves badly.
[[nodiscard]] result<std::unique_ptr<device>> make_reference_device(const cpu_options& options);

// A GPU, through what its plug-in opened (gpu_runtime.hpp). invalid_request for a type that is neither f32 nor bf16.
class gpu_runtime;
[[nodiscard]] result<std::unique_ptr<device>> make_gpu_device(std::unique_ptr<gpu_runtime> runtime, dtype type);

// A dense product y = x W^T (+ b) in f32 with weights packed once: router gates, shared experts, later the trunk.
class dense_product {
 public:
  // weight [out, in] row-major; bias [out] or empty. Weights are kept in `type` (f32 or bf16), sums are f32.
  [[nodiscard]] static result<dense_product> make(std::span<const float> weight, std::span<const float> bias,
                                                  std::uint32_t out, std::uint32_t in, dtype type);
  dense_product(dense_product&&) noexcept;
  dense_product& operator=(dense_product&&) noexcept;
  ~dense_product();
  // x [rows, in] f32 -> y [rows, out] f32. Runs on the calling thread alone; const calls from many threads are safe.
  void run(const float* x, std::uint32_t rows, float* y) const;

 private:
  struct state;
  explicit dense_product(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

// A known row and what the plain loops make of it with the bundle's bytes, rounded as a device of `type` rounds.
struct probe_sample {
  expert_id id;
  model::expert_shape shape;
  dtype type{dtype::bf16};
  std::vector<float> row{};        // [H], exact in bf16
  std::vector<double> expected{};  // [H]
};
// Any thread; takes about a nanosecond per weight. invalid_request as device::load.
[[nodiscard]] result<probe_sample> make_probe(const model::bundle_layout& layout, std::span<const std::byte> bundle,
                                              dtype type);
// The sample through a freshly loaded slot, on the device's thread: one row, cheap. corrupt with both values when they
// differ by more than the dtype's tolerance, or when the output is not finite.
[[nodiscard]] result<void> run_probe(device& d, slot_index slot, const probe_sample& sample);

// Both in one call.
[[nodiscard]] result<void> probe(device& d, slot_index slot, const model::bundle_layout& layout,
                                 std::span<const std::byte> bundle);

// How differently two slots compute the same rows. Of each row: the euclidean norm of the difference of the outputs
// over that of the first slot's output (1 where that is zero and the other is not).
struct output_difference {
  std::uint32_t rows{};
  double mean{};
  double largest{};
};
// `rows`: [n, H] in the device's type, n > 0. The device's thread. Errors as device::run.
[[nodiscard]] result<output_difference> compare_slots(device& d, const model::expert_shape& shape, slot_index first,
                                                      slot_index second, std::span<const std::byte> rows);

}  // namespace troupe::compute
