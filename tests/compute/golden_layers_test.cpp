// Every MoE layer of every golden family through gate product, gating, device and shared expert, in one process.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <tuple>

#include "compute/device.hpp"
#include "compute/shared_expert.hpp"
#include "model/checkpoint.hpp"
#include "model/gating.hpp"
#include "tests/model/golden_file.hpp"

namespace troupe::compute::test {
namespace {

using model::test::golden_file;
using model::test::golden_folder;

template <class T>
T value_of(result<T> outcome) {
  if (!outcome) throw std::runtime_error(outcome.error().message);
  return std::move(*outcome);
}

void check(const result<void>& outcome) {
  if (!outcome) throw std::runtime_error(outcome.error().message);
}

// "layer.3", "encoder.layer.1": how the golden files call a layer.
std::string golden_name(layer_id id) {
  auto text = to_string(id);
  auto dot = text.find('.');
  return dot == std::string::npos ? "layer." + text : text.substr(0, dot) + ".layer" + text.substr(dot);
}

double share_of_peak(const std::vector<float>& ours, const std::vector<float>& reference) {
  EXPECT_EQ(ours.size(), reference.size());
  double largest = 0;
  double peak = 0;
  for (std::size_t i = 0; i < std::min(ours.size(), reference.size()); ++i) {
    largest = std::max(largest, std::abs(double{ours[i]} - double{reference[i]}));
    peak = std::max(peak, std::abs(double{reference[i]}));
  }
  EXPECT_GT(peak, 0);
  return largest / peak;
}

std::vector<float> read_optional(const model::checkpoint& source, const std::string& name) {
  return name.empty() ? std::vector<float>{} : value_of(source.read_f32(name));
}

model::routing route(const model::checkpoint& source, const model::moe_layer& layer, const std::vector<float>& hidden) {
  const auto& gate = layer.gate;
  auto weight = value_of(source.read_f32(gate.weight));
  auto bias = read_optional(source, gate.bias);
  auto product = value_of(dense_product::make(weight, bias, gate.num_experts, layer.shape.hidden, dtype::f32));
  auto rows = static_cast<std::uint32_t>(hidden.size() / layer.shape.hidden);
  std::vector<float> logits(std::size_t{rows} * gate.num_experts);
  product.run(hidden.data(), rows, logits.data());
  return value_of(model::choose_experts(gate, read_optional(source, gate.correction_bias), logits));
}

void load_layer(device& d, const model::checkpoint& source, const model::moe_layer& layer) {
  auto count = static_cast<std::uint32_t>(layer.experts.size());
  check(d.reserve(count, d.slot_bytes(layer.shape)));
  for (std::uint32_t e = 0; e < count; ++e) {
    std::vector<std::byte> bundle(layer.experts[e].bytes());
    check(source.read_bundle(layer.experts[e], bundle));
    check(d.load({e}, layer.experts[e], bundle));
    check(probe(d, {e}, layer.experts[e], bundle));
  }
}

std::vector<float> routed_output(device& d, const model::moe_layer& layer, const model::routing& chosen,
                                 const std::vector<float>& hidden) {
  auto type = d.info().type;
  std::map<std::uint32_t, std::pair<std::vector<std::uint32_t>, std::vector<float>>> by_expert;
  for (std::size_t i = 0; i < chosen.expert_ids.size(); ++i) {
    if (!chosen.dropped.empty() && chosen.dropped[i] != 0) continue;
    auto& [rows, weights] = by_expert[static_cast<std::uint32_t>(chosen.expert_ids[i])];
    rows.push_back(static_cast<std::uint32_t>(i / chosen.top_k));
    weights.push_back(chosen.weights[i]);
  }
  std::vector<expert_group> groups;
  for (const auto& [expert, part] : by_expert) {
    groups.push_back({.slot = {expert}, .rows = part.first, .gate_weights = part.second});
  }
  std::vector<std::byte> input(hidden.size() * bytes_per_element(type));
  std::vector<std::byte> output(input.size());
  convert(dtype::f32, reinterpret_cast<const std::byte*>(hidden.data()), type, input.data(), hidden.size());
  segment rows{.input = input.data(),
               .output = output.data(),
               .rows = static_cast<std::uint32_t>(hidden.size() / layer.shape.hidden)};
  std::vector<group_report> reports(groups.size());
  check(d.run({.shape = layer.shape, .segments = {&rows, 1}, .groups = groups}, reports));
  std::vector<float> values(hidden.size());
  convert(type, output.data(), dtype::f32, reinterpret_cast<std::byte*>(values.data()), values.size());
  return values;
}

void add_shared(const model::checkpoint& source, const model::moe_layer& layer, dtype type,
                const std::vector<float>& hidden, std::vector<float>& sums) {
  if (!layer.shared) return;
  auto gate = read_optional(source, layer.shared->gate);
  auto up = value_of(source.read_f32(layer.shared->up));
  auto down = value_of(source.read_f32(layer.shared->down));
  auto sigmoid_gate = read_optional(source, layer.shared->sigmoid_gate);
  auto shared = value_of(shared_expert::make({.gate = gate, .up = up, .down = down, .sigmoid_gate = sigmoid_gate},
                                             layer.shape.hidden, layer.shared->width, layer.shared->act, type,
                                             *work_team::start(1, "a test")));
  check(shared.add_to(hidden.data(), static_cast<std::uint32_t>(hidden.size() / layer.shape.hidden), sums.data()));
}

class golden_layers : public ::testing::TestWithParam<std::tuple<std::string, bool, dtype>> {};

TEST_P(golden_layers, give_the_reference_output) {
  auto [family, reference, type] = GetParam();
  double tolerance = type == dtype::f32 ? 2e-5 : 2e-2;
  auto source = value_of(model::checkpoint::open(golden_folder(family)));
  golden_file golden{golden_folder(family) / "layers.safetensors"};
  ASSERT_FALSE(source.model().layers.empty());
  for (const auto& layer : source.model().layers) {
    auto name = golden_name(layer.id);
    SCOPED_TRACE(name);
    cpu_options options{.type = type, .threads = 2};
    auto d = value_of(reference ? make_reference_device(options) : make_cpu_device(options));
    load_layer(*d, source, layer);
    auto hidden = golden.floats(name + ".input");
    auto output = routed_output(*d, layer, route(source, layer, hidden), hidden);
    bool is_vmoe = family == "vmoe";
    auto routed = golden.floats(name + (is_vmoe ? ".vanilla.routed_output" : ".routed_output"));
    EXPECT_LE(share_of_peak(output, routed), tolerance);
    if (is_vmoe) continue;
    add_shared(source, layer, type, hidden, output);
    EXPECT_LE(share_of_peak(output, golden.floats(name + ".block_output")), tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(families, golden_layers,
                         ::testing::Combine(::testing::Values("mixtral", "qwen2_moe", "qwen3_moe", "olmoe",
                                                              "deepseek_v2", "deepseek_v3", "gpt_oss",
                                                              "switch_transformers", "vmoe", "deepseek_v3_fp8",
                                                              "qwen3_moe_fp8", "gpt_oss_mxfp4"),
                                            ::testing::Bool(), ::testing::Values(dtype::f32, dtype::bf16)),
                         [](const auto& which) {
                           return std::get<0>(which.param) + (std::get<1>(which.param) ? "_reference_" : "_cpu_") +
                                  std::string{to_string(std::get<2>(which.param))};
                         });

}  // namespace
}  // namespace troupe::compute::test
