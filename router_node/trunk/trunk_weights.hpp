// The weights of a trunk in memory: matrices packed for the processor's product, everything else in f32.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "common/error.hpp"
#include "compute/product.hpp"
#include "compute/shared_expert.hpp"
#include "compute/weight_matrix.hpp"
#include "compute/work_team.hpp"
#include "model/checkpoint.hpp"
#include "model/trunk_description.hpp"

namespace troupe::router {

struct block_weights {
  std::vector<float> attention_norm, mlp_norm;  // [H]
  compute::weight_matrix qkv;                   // queries, keys and values below each other
  std::vector<float> qkv_bias;                  // [out] or empty
  std::vector<float> query_norm, key_norm;      // as model::trunk_block says; may be empty
  compute::weight_matrix output;
  std::vector<float> output_bias;               // [H] or empty
  std::optional<compute::shared_expert> dense;  // blocks without experts
};

struct trunk_weights {
  std::vector<std::byte> embedding;  // [V, H] in the trunk's type
  std::vector<block_weights> blocks;
  std::vector<float> final_norm;  // [H]
  compute::weight_matrix head;    // [V, H]
};

// Dense MLPs compute with `team`. invalid_request naming the tensor when one of them is not finite; errors as
// checkpoint::read_f32; out_of_memory.
[[nodiscard]] result<trunk_weights> read_trunk_weights(const model::checkpoint& checkpoint,
                                                       const model::trunk_description& trunk,
                                                       const std::shared_ptr<const compute::product_kernel>& kernel,
                                                       const std::shared_ptr<compute::work_team>& team);

}  // namespace troupe::router
