#include "model/families/trunk_reader.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include <fmt/format.h>

#include "model/families/family.hpp"

namespace troupe::model {
namespace {

constexpr std::uint32_t context_tokens_max = 1U << 24;

double positive(config_reader& config, std::string_view key) {
  auto value = config.number(key, 0.0);
  if (value > 0) return value;
  config.refuse(key, "a number above 0", config.has(key) ? fmt::format("{}", value) : "missing");
  return 1.0;
}

double yarn_attention_factor(config_reader& scaling, double factor) {
  if (scaling.has("attention_factor")) return positive(scaling, "attention_factor");
  auto stretch = [&](double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; };
  auto mscale = scaling.number("mscale", 0.0);
  auto all_dims = scaling.number("mscale_all_dim", 0.0);
  return mscale != 0 && all_dims != 0 ? stretch(mscale) / stretch(all_dims) : stretch(1.0);
}

void read_yarn(config_reader& scaling, rope_description& rope) {
  rope.original_tokens = scaling.count("original_max_position_embeddings", rope.original_tokens);
  rope.attention_factor = yarn_attention_factor(scaling, rope.factor);
  // transformers takes 0 for "not given".
  if (auto fast = scaling.number("beta_fast", 0.0); fast != 0) rope.beta_fast = fast;
  if (auto slow = scaling.number("beta_slow", 0.0); slow != 0) rope.beta_slow = slow;
  rope.truncate = scaling.flag("truncate", true);
}

void read_llama3(config_reader& scaling, rope_description& rope) {
  rope.original_tokens = scaling.count("original_max_position_embeddings");
  rope.low_freq_factor = positive(scaling, "low_freq_factor");
  rope.high_freq_factor = positive(scaling, "high_freq_factor");
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    scaling.refuse("high_freq_factor", fmt::format("above low_freq_factor, {}", rope.low_freq_factor),
                   fmt::format("{}", rope.high_freq_factor));
  }
}

void read_scaling(config_reader& scaling, rope_description& rope) {
  const auto* key = !scaling.has("rope_type") && scaling.has("type") ? "type" : "rope_type";
  if (!scaling.has(key)) {
    scaling.refuse(key, "one of: default, linear, dynamic, llama3, yarn", "missing");
    return;
  }
  auto kind = scaling.choice(key, "default", {"default", "linear", "dynamic", "llama3", "yarn"});
  if (kind == "default") return;
  rope.factor = positive(scaling, "factor");
  if (kind == "linear") {
    rope.kind = rope_kind::linear;
  } else if (kind == "dynamic") {
    rope.kind = rope_kind::dynamic;
  } else if (kind == "llama3") {
    rope.kind = rope_kind::llama3;
    read_llama3(scaling, rope);
  } else {
    rope.kind = rope_kind::yarn;
    read_yarn(scaling, rope);
  }
}

rope_description read_rope(config_reader& config, const trunk_description& trunk, double default_theta) {
  rope_description rope;
  rope.original_tokens = trunk.context_tokens;
  rope.theta = config.number("rope_theta", default_theta);
  if (!(rope.theta > 1)) config.refuse("rope_theta", "a number above 1", fmt::format("{}", rope.theta));
  auto part = config.number("partial_rotary_factor", 1.0);
  rope.dims = part > 0 && part <= 1 ? static_cast<std::uint32_t>(trunk.head_dim * part) : 0;
  if (config.sizes_known() && (rope.dims == 0 || rope.dims % 2 != 0)) {
    config.refuse("partial_rotary_factor",
                  fmt::format("an even number of rotated dimensions out of head_dim, {}", trunk.head_dim),
                  fmt::format("{}", part));
  }
  if (auto scaling = config.section("rope_scaling")) read_scaling(*scaling, rope);
  if (rope.kind == rope_kind::dynamic && rope.dims == 2) {
    config.refuse("head_dim", "more than 2 rotated dimensions for a dynamic rope", "2");
  }
  return rope;
}

// How far published checkpoints of the kind are meant to be used: linear, dynamic and yarn multiply the context that
// the model was first trained with, llama3 names the result in max_position_embeddings.
std::uint32_t stretched_context(const rope_description& rope, std::uint32_t context_tokens) {
  if (rope.kind == rope_kind::plain || rope.kind == rope_kind::llama3) return context_tokens;
  auto stretched = std::min(rope.original_tokens * rope.factor, double{context_tokens_max});
  return std::max(context_tokens, static_cast<std::uint32_t>(stretched));
}

void check_heads(config_reader& config, const trunk_description& trunk, const trunk_defaults& defaults) {
  if (!config.sizes_known()) return;
  if (trunk.heads % trunk.kv_heads != 0) {
    config.refuse("num_key_value_heads", fmt::format("a divisor of the {} heads", trunk.heads),
                  fmt::format("{}", trunk.kv_heads));
  }
  auto row = std::uint64_t{trunk.heads} * trunk.head_dim;
  if (!defaults.own_head_dim && row != trunk.hidden) {
    config.refuse("num_attention_heads", fmt::format("heads that make up the hidden size, {}", trunk.hidden),
                  fmt::format("{} of {}", trunk.heads, trunk.head_dim));
  }
}

void require_linear(const trunk_linear& linear, std::uint64_t out, std::uint64_t in, const stored_tensors& tensors,
                    problem_list& problems) {
  require_weight(tensors, problems, linear.weight, out, in);
  if (!linear.bias.empty()) require_tensor(tensors, problems, linear.bias, {out});
}

void name_block(trunk_block& block, const trunk_description& trunk, std::size_t number) {
  auto prefix = fmt::format("model.layers.{}.", number);
  block.attention_norm = prefix + "input_layernorm.weight";
  block.mlp_norm = prefix + "post_attention_layernorm.weight";
  auto linear = [&](std::string_view name, bool has_bias) {
    auto stem = fmt::format("{}self_attn.{}_proj.", prefix, name);
    return trunk_linear{stem + "weight", has_bias ? stem + "bias" : std::string{}};
  };
  block.query = linear("q", trunk.qkv_bias);
  block.key = linear("k", trunk.qkv_bias);
  block.value = linear("v", trunk.qkv_bias);
  block.output = linear("o", trunk.output_bias);
  if (trunk.norm == head_norm::none) return;
  block.query_norm = prefix + "self_attn.q_norm.weight";
  block.key_norm = prefix + "self_attn.k_norm.weight";
}

void require_block(const trunk_block& block, const trunk_description& trunk, const stored_tensors& tensors,
                   problem_list& problems) {
  std::uint64_t hidden = trunk.hidden;
  std::uint64_t queries = std::uint64_t{trunk.heads} * trunk.head_dim;
  std::uint64_t keys = std::uint64_t{trunk.kv_heads} * trunk.head_dim;
  require_tensor(tensors, problems, block.attention_norm, {hidden});
  require_linear(block.query, queries, hidden, tensors, problems);
  require_linear(block.key, keys, hidden, tensors, problems);
  require_linear(block.value, keys, hidden, tensors, problems);
  require_linear(block.output, hidden, queries, tensors, problems);
  if (trunk.norm != head_norm::none) {
    bool whole = trunk.norm == head_norm::whole;
    require_tensor(tensors, problems, block.query_norm, {whole ? queries : trunk.head_dim});
    require_tensor(tensors, problems, block.key_norm, {whole ? keys : trunk.head_dim});
  }
  require_tensor(tensors, problems, block.mlp_norm, {hidden});
  if (!block.dense) return;
  require_weight(tensors, problems, block.dense->gate, block.dense->width, hidden);
  require_weight(tensors, problems, block.dense->up, block.dense->width, hidden);
  require_weight(tensors, problems, block.dense->down, hidden, block.dense->width);
}

}  // namespace

trunk_description read_trunk(config_reader& config, const trunk_defaults& defaults) {
  trunk_description trunk;
  trunk.hidden = config.count("hidden_size", defaults.hidden);
  trunk.vocabulary = config.count("vocab_size", defaults.vocabulary);
  trunk.heads = config.count("num_attention_heads", defaults.heads);
  bool as_heads = defaults.kv_heads == 0 || config.is_null("num_key_value_heads");
  trunk.kv_heads = config.count("num_key_value_heads", as_heads ? trunk.heads : defaults.kv_heads);
  trunk.head_dim = config.count("head_dim", std::max(1U, trunk.hidden / trunk.heads));
  trunk.context_tokens = config.count("max_position_embeddings", defaults.context_tokens, {1, context_tokens_max});
  trunk.norm_epsilon = config.number("rms_norm_eps", defaults.norm_epsilon);
  trunk.embedding = "model.embed_tokens.weight";
  trunk.head = config.flag("tie_word_embeddings", false) ? trunk.embedding : "lm_head.weight";
  trunk.blocks.resize(read_num_layers(config, "num_hidden_layers", defaults.num_layers));
  expect_silu(config);
  check_heads(config, trunk, defaults);
  trunk.rope = read_rope(config, trunk, defaults.rope_theta);
  trunk.context_tokens = stretched_context(trunk.rope, trunk.context_tokens);
  return trunk;
}

void name_tensors(trunk_description& trunk, const stored_tensors& tensors, problem_list& problems) {
  trunk.final_norm = "model.norm.weight";
  require_tensor(tensors, problems, trunk.embedding, {trunk.vocabulary, trunk.hidden});
  for (std::size_t i = 0; i < trunk.blocks.size(); ++i) {
    name_block(trunk.blocks[i], trunk, i);
    require_block(trunk.blocks[i], trunk, tensors, problems);
  }
  require_tensor(tensors, problems, trunk.final_norm, {trunk.hidden});
  if (trunk.head != trunk.embedding) {
    require_tensor(tensors, problems, trunk.head, {trunk.vocabulary, trunk.hidden});
  }
}

}  // namespace troupe::model
