// What a decoder is besides its routed experts: sizes, norms, rotary embeddings, tensor names. Plain values, filled by
// the family files (model/families/*.cpp) as transformers 4.57 reads the same config.json; read-only afterwards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "model/description.hpp"
#include "model/safetensors.hpp"

namespace troupe::model {

// How positions become angles. Named as in `rope_scaling`; the formulas are those of transformers' modeling_rope_utils.
enum class rope_kind : std::uint8_t { plain, linear, dynamic, llama3, yarn };

struct rope_description {
  rope_kind kind{rope_kind::plain};
  double theta{10000.0};
  std::uint32_t dims{};             // of each head, the first ones; even
  double factor{1.0};               // all but plain
  std::uint32_t original_tokens{};  // dynamic, llama3, yarn: the context before it was stretched
  double low_freq_factor{1.0};      // llama3
  double high_freq_factor{4.0};     // llama3
  double beta_fast{32.0};           // yarn
  double beta_slow{1.0};            // yarn
  bool truncate{true};              // yarn: are the bounds of its ramp whole numbers?
  double attention_factor{1.0};     // cosines and sines are multiplied by it
};

enum class head_norm : std::uint8_t {
  none,
  per_head,  // RMS norm of each query and key head (qwen3_moe)
  whole,     // RMS norm over all query heads together, and over all key heads (olmoe)
};

struct trunk_linear {
  std::string weight;  // [out, in]
  std::string bias;    // [out]; empty: none
};

struct trunk_block {
  std::string attention_norm;  // [H], before attention
  std::string mlp_norm;        // [H], after it
  trunk_linear query;          // [heads * head_dim, H]
  trunk_linear key, value;     // [kv_heads * head_dim, H]
  trunk_linear output;         // [H, heads * head_dim]
  std::string query_norm;      // [head_dim] or [heads * head_dim]; empty: none
  std::string key_norm;
  std::optional<shared_expert> dense;  // the block's MLP where it has no experts
};

struct trunk_description {
  std::uint32_t hidden{};
  std::uint32_t vocabulary{};
  std::uint32_t heads{};
  std::uint32_t kv_heads{};
  std::uint32_t head_dim{};
  std::uint32_t context_tokens{};  // of prompt and answer together; stretched by the rope's factor where it has one
  double norm_epsilon{};
  rope_description rope;
  head_norm norm{head_norm::none};
  bool qkv_bias{};
  bool output_bias{};
  double clip_qkv{};       // queries, keys and values are held within +-this, behind the norm; 0: not
  std::uint32_t window{};  // a token sees itself and the window - 1 before it; 0: all before it
  std::string embedding;   // [V, H]
  std::string final_norm;  // [H]
  std::string head;        // [V, H]; the embedding's name where both are one tensor
  std::vector<trunk_block> blocks;
  std::vector<token_number> end_tokens;  // that end an answer
};

// config.json and the tensors of a checkpoint -> its trunk, without end tokens. Errors as checkpoint::trunk.
[[nodiscard]] result<trunk_description> describe_trunk(std::string_view config_json, const tensor_index& tensors);

// Is the trunk of this family (config.json's model_type) known?
[[nodiscard]] bool has_trunk(std::string_view family);

}  // namespace troupe::model
