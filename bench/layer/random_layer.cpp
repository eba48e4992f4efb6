#include "bench/layer/random_layer.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "common/tensor.hpp"

namespace troupe::bench {
namespace {

// Drawing a normal number per weight would take longer than the measurement: a table of them is drawn from instead.
class normal_source {
 public:
  explicit normal_source(std::uint64_t seed) : state_{seed * 2 + 1} {
    std::mt19937_64 generator{seed};
    std::normal_distribution<float> normal;
    for (float& value : table_) value = normal(generator);
  }

  std::uint16_t next(float scale) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return f32_to_bf16(table_[state_ % table_.size()] * scale);
  }

 private:
  std::array<float, 4093> table_{};
  std::uint64_t state_;
};

struct planned_tensor {
  std::string name;
  std::uint32_t out;
  std::uint32_t in;
};

std::vector<planned_tensor> plan(const layer_spec& spec) {
  std::vector<planned_tensor> tensors{{"model.layers.0.mlp.gate.weight", spec.experts, spec.hidden}};
  for (std::uint32_t e = 0; e < spec.experts; ++e) {
    auto prefix = fmt::format("model.layers.0.mlp.experts.{}.", e);
    tensors.push_back({prefix + "gate_proj.weight", spec.width, spec.hidden});
    tensors.push_back({prefix + "up_proj.weight", spec.width, spec.hidden});
    tensors.push_back({prefix + "down_proj.weight", spec.hidden, spec.width});
  }
  return tensors;
}

std::string header_of(const std::vector<planned_tensor>& tensors) {
  nlohmann::ordered_json header;
  std::uint64_t offset = 0;
  for (const auto& tensor : tensors) {
    auto bytes = std::uint64_t{tensor.out} * tensor.in * 2;
    header[tensor.name] = {
        {"dtype", "BF16"}, {"shape", {tensor.out, tensor.in}}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  auto text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

nlohmann::json config_of(const layer_spec& spec) {
  return {{"model_type", "qwen3_moe"},
          {"architectures", {"Qwen3MoeForCausalLM"}},
          {"hidden_size", spec.hidden},
          {"moe_intermediate_size", spec.width},
          {"intermediate_size", spec.width},
          {"num_experts", spec.experts},
          {"num_experts_per_tok", spec.top_k},
          {"norm_topk_prob", true},
          {"num_hidden_layers", 1},
          {"decoder_sparse_step", 1},
          {"mlp_only_layers", nlohmann::json::array()},
          {"hidden_act", "silu"},
          {"vocab_size", 8},
          {"num_attention_heads", 1},
          {"num_key_value_heads", 1},
          {"dtype", "bfloat16"}};
}

}  // namespace

result<void> write_random_layer(const std::filesystem::path& folder, const layer_spec& spec, std::uint64_t seed) {
  std::ofstream{folder / "config.json"} << config_of(spec).dump(2);
  auto path = folder / "model.safetensors";
  std::ofstream file{path, std::ios::binary};
  const auto tensors = plan(spec);
  const auto header = header_of(tensors);
  std::array<char, 8> length{};
  for (std::size_t i = 0; i < length.size(); ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  file.write(length.data(), length.size());
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  normal_source source{seed};
  std::vector<std::uint16_t> values;
  for (const auto& tensor : tensors) {
    values.resize(std::size_t{tensor.out} * tensor.in);
    const float scale = 1.0F / std::sqrt(static_cast<float>(tensor.in));
    for (auto& value : values) value = source.next(scale);
    file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * 2));
  }
  file.close();
  if (!file) {
    return fail(errc::no_space, fmt::format("cannot write {}; it needs {} MB of free space", path.string(),
                                            std::uint64_t{spec.experts} * spec.hidden * spec.width * 6 / 1'000'000));
  }
  return {};
}

std::vector<std::uint16_t> random_rows(std::uint32_t count, std::uint32_t hidden, std::uint64_t seed) {
  normal_source source{seed};
  std::vector<std::uint16_t> rows(std::size_t{count} * hidden);
  for (auto& value : rows) value = source.next(1.0F);
  return rows;
}

}  // namespace troupe::bench
