// What the trunks of several families share: sizes, rotary embeddings, and the names and shapes of their tensors.
#pragma once

#include <cstdint>

#include "model/config_reader.hpp"
#include "model/families/stored_tensors.hpp"
#include "model/problem_list.hpp"
#include "model/trunk_description.hpp"

namespace troupe::model {

// Of the family's config class.
struct trunk_defaults {
  std::uint32_t hidden{};
  std::uint32_t num_layers{};
  std::uint32_t heads{};
  std::uint32_t kv_heads{};  // 0: as many as heads
  std::uint32_t vocabulary{};
  std::uint32_t context_tokens{};
  double norm_epsilon{};
  double rope_theta{10000.0};
  bool own_head_dim{};  // may head_dim differ from hidden / heads?
};

// The keys that all of them read: sizes, tie_word_embeddings, rope_theta and rope_scaling.
[[nodiscard]] trunk_description read_trunk(config_reader& config, const trunk_defaults& defaults);

// Names the tensors that `trunk` says there are and reports those that are missing or misshapen. Dense MLPs are the
// family's: it has set blocks[L].dense where a block has no experts.
void name_tensors(trunk_description& trunk, const stored_tensors& tensors, problem_list& problems);

}  // namespace troupe::model
