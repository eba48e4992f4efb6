#include "bench/trunk/random_checkpoint.hpp"

#include <array>
#include <cmath>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/tensor.hpp"
#include "model/safetensors.hpp"

namespace troupe::bench {
namespace {

constexpr std::uint32_t expert_width = 16;

struct planned_tensor {
  std::string name;
  std::vector<std::uint64_t> shape;
};

std::vector<planned_tensor> plan(const checkpoint_sizes& sizes) {
  std::uint64_t hidden = sizes.hidden;
  std::uint64_t keys = hidden / sizes.heads * sizes.kv_heads;
  std::vector<planned_tensor> tensors{{"model.embed_tokens.weight", {sizes.vocabulary, hidden}},
                                      {"model.norm.weight", {hidden}},
                                      {"lm_head.weight", {sizes.vocabulary, hidden}}};
  for (std::uint32_t block = 0; block < sizes.layers; ++block) {
    auto prefix = fmt::format("model.layers.{}.", block);
    tensors.push_back({prefix + "input_layernorm.weight", {hidden}});
    tensors.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
    tensors.push_back({prefix + "self_attn.q_proj.weight", {hidden, hidden}});
    tensors.push_back({prefix + "self_attn.k_proj.weight", {keys, hidden}});
    tensors.push_back({prefix + "self_attn.v_proj.weight", {keys, hidden}});
    tensors.push_back({prefix + "self_attn.o_proj.weight", {hidden, hidden}});
    tensors.push_back({prefix + "block_sparse_moe.gate.weight", {1, hidden}});
    tensors.push_back({prefix + "block_sparse_moe.experts.0.w1.weight", {expert_width, hidden}});
    tensors.push_back({prefix + "block_sparse_moe.experts.0.w2.weight", {hidden, expert_width}});
    tensors.push_back({prefix + "block_sparse_moe.experts.0.w3.weight", {expert_width, hidden}});
  }
  return tensors;
}

// Matrices of outputs of order one; norms close to one.
std::vector<std::uint16_t> random_values(const planned_tensor& tensor, std::mt19937_64& random) {
  std::uint64_t count = 1;
  for (auto size : tensor.shape) count *= size;
  bool is_norm = tensor.shape.size() == 1;
  std::normal_distribution<float> normal(is_norm ? 1.0F : 0.0F,
                                         is_norm ? 0.1F : 1.0F / std::sqrt(static_cast<float>(tensor.shape.back())));
  std::vector<std::uint16_t> values(count);
  for (auto& value : values) value = f32_to_bf16(normal(random));
  return values;
}

void write_file(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream file{path, std::ios::binary};
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error(fmt::format("{} could not be written", path.string()));
}

std::filesystem::path new_folder() {
  std::random_device random;
  auto folder = std::filesystem::temp_directory_path() / fmt::format("troupe-bench-trunk-{:08x}", random());
  std::filesystem::create_directory(folder);
  return folder;
}

}  // namespace

std::filesystem::path write_random_checkpoint(const checkpoint_sizes& sizes) {
  auto folder = new_folder();
  auto config = nlohmann::json{
      {"model_type", "mixtral"},
      {"hidden_size", sizes.hidden},
      {"intermediate_size", expert_width},
      {"num_hidden_layers", sizes.layers},
      {"num_attention_heads", sizes.heads},
      {"num_key_value_heads", sizes.kv_heads},
      {"num_local_experts", 1},
      {"num_experts_per_tok", 1},
      {"vocab_size", sizes.vocabulary},
      {"max_position_embeddings",
       32'768}}.dump();
  write_file(folder / "config.json", std::as_bytes(std::span{config}));
  std::mt19937_64 random(1);
  std::vector<std::vector<std::uint16_t>> values;
  std::vector<model::named_tensor> tensors;
  for (const auto& tensor : plan(sizes)) {
    values.push_back(random_values(tensor, random));
    tensors.push_back({tensor.name, {dtype::bf16, tensor.shape, std::as_bytes(std::span{values.back()})}});
  }
  write_file(folder / "model.safetensors", model::write_safetensors(tensors, {}));
  return folder;
}

}  // namespace troupe::bench
