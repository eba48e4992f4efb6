// Random experts in every form that checkpoints store, with an f64 computation that shares no code with compute/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "common/tensor.hpp"
#include "compute/device.hpp"
#include "model/description.hpp"

namespace troupe::compute::test {

enum class stored_form { separate, transposed, interleaved, interleaved_transposed };

// Values as stored (quantised ones times their scales), [out][in] row-major; empty where the expert has none.
struct sample_expert {
  model::bundle_layout layout;
  std::vector<std::byte> bundle;
  std::vector<double> gate, up, down, gate_bias, up_bias, down_bias;
};

// Normal values; weights are scaled so that outputs are about as large as inputs. Interleaved forms need a gated kind.
// `stored` may also be f8_e4m3 or, for mxfp4, u8 (whose sizes are multiples of 32): any numbers and scales of those,
// not transposed; biases are bf16 then.
[[nodiscard]] sample_expert make_sample(const model::expert_shape& shape, dtype stored, stored_form form,
                                        std::uint32_t seed);

// [hidden]
[[nodiscard]] std::vector<double> expected_output(const sample_expert& expert, std::span<const float> row);

[[nodiscard]] std::vector<float> random_values(std::size_t count, std::uint32_t seed);

// Which expert gets which row with which weight, as one batch's groups and segments; owns what `view` points to.
struct sample_batch {
  model::expert_shape shape{};
  dtype type{dtype::f32};
  std::uint32_t rows{};
  std::vector<float> values{};  // [rows, hidden] as the device sees them
  std::vector<std::byte> input{};
  std::vector<std::byte> output{};
  std::vector<std::vector<std::uint32_t>> group_rows{};
  std::vector<std::vector<float>> group_weights{};
  std::vector<slot_index> slots{};
  std::vector<segment> segments{};
  std::vector<expert_group> groups{};
  std::vector<group_report> reports{};

  [[nodiscard]] batch view() const { return {.shape = shape, .segments = segments, .groups = groups}; }
  [[nodiscard]] std::vector<float> outputs() const;
};

// Each row goes to `per_row` of the `experts` slots 0.. (in random order within a group); rows are cut into segments
// unevenly.
[[nodiscard]] sample_batch make_batch(const model::expert_shape& shape, dtype type, std::uint32_t rows,
                                      std::uint32_t experts, std::uint32_t per_row, std::uint32_t seed);

// f64 result of one row of the batch, and with all rows: the weighted norm sums of the groups.
[[nodiscard]] std::vector<double> expected_row(const sample_batch& work, std::span<const sample_expert> experts,
                                               std::uint32_t row);
[[nodiscard]] double expected_norm(const sample_batch& work, std::span<const sample_expert> experts, std::size_t group);

}  // namespace troupe::compute::test
