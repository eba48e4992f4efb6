#include "router_node/trunk/trunk_weights.hpp"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace troupe::router {
namespace {

class reader {
 public:
  reader(const model::checkpoint& checkpoint, const model::trunk_description& trunk,
         const std::shared_ptr<const compute::product_kernel>& kernel, const std::shared_ptr<compute::work_team>& team)
      : checkpoint_(checkpoint), trunk_(trunk), kernel_(kernel), team_(team) {}

  // Empty names give empty vectors. The first failure is kept, and what follows it reads nothing.
  std::vector<float> read(const std::string& name) {
    if (failure_ || name.empty()) return {};
    auto values = checkpoint_.read_f32(name);
    if (!values) {
      failure_ = values.error();
      return {};
    }
    if (!std::ranges::all_of(*values, [](float x) { return std::isfinite(x); })) {
      failure_ = error{errc::invalid_request,
                       fmt::format("tensor \"{}\" holds NaN or infinite values; restore the checkpoint", name)};
    }
    return std::move(*values);
  }

  std::vector<float> read_below_each_other(std::initializer_list<const std::string*> names) {
    std::vector<float> all;
    for (const auto* name : names) {
      auto part = read(*name);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  compute::weight_matrix pack(const std::vector<float>& weight, std::uint32_t in) {
    if (failure_) return {};
    auto out = static_cast<std::uint32_t>(weight.size() / in);
    auto packed = compute::weight_matrix::pack(kernel_, weight, out, in);
    if (!packed) {
      failure_ = packed.error();
      return {};
    }
    return std::move(*packed);
  }

  std::optional<compute::shared_expert> read_dense(const model::shared_expert& dense) {
    auto gate = read(dense.gate);
    auto up = read(dense.up);
    auto down = read(dense.down);
    if (failure_) return std::nullopt;
    auto made = compute::shared_expert::make({.gate = gate, .up = up, .down = down, .sigmoid_gate = {}}, trunk_.hidden,
                                             dense.width, dense.act, kernel_->type(), team_);
    if (!made) {
      failure_ = made.error();
      return std::nullopt;
    }
    return std::move(*made);
  }

  block_weights read_block(const model::trunk_block& block) {
    block_weights weights;
    weights.attention_norm = read(block.attention_norm);
    weights.mlp_norm = read(block.mlp_norm);
    weights.qkv =
        pack(read_below_each_other({&block.query.weight, &block.key.weight, &block.value.weight}), trunk_.hidden);
    weights.qkv_bias = read_below_each_other({&block.query.bias, &block.key.bias, &block.value.bias});
    weights.query_norm = read(block.query_norm);
    weights.key_norm = read(block.key_norm);
    weights.output = pack(read(block.output.weight), trunk_.heads * trunk_.head_dim);
    weights.output_bias = read(block.output.bias);
    if (block.dense) weights.dense = read_dense(*block.dense);
    return weights;
  }

  std::vector<std::byte> read_embedding(const std::vector<float>& values) {
    std::vector<std::byte> table(values.size() * bytes_per_element(kernel_->type()));
    convert(dtype::f32, reinterpret_cast<const std::byte*>(values.data()), kernel_->type(), table.data(),
            values.size());
    return table;
  }

  [[nodiscard]] const std::optional<error>& failure() const { return failure_; }

 private:
  const model::checkpoint& checkpoint_;
  const model::trunk_description& trunk_;
  const std::shared_ptr<const compute::product_kernel>& kernel_;
  const std::shared_ptr<compute::work_team>& team_;
  std::optional<error> failure_;
};

}  // namespace

result<trunk_weights> read_trunk_weights(const model::checkpoint& checkpoint, const model::trunk_description& trunk,
                                         const std::shared_ptr<const compute::product_kernel>& kernel,
                                         const std::shared_ptr<compute::work_team>& team) {
  try {
    reader source{checkpoint, trunk, kernel, team};
    trunk_weights weights;
    {
      auto embedding = source.read(trunk.embedding);
      weights.embedding = source.read_embedding(embedding);
      if (trunk.head == trunk.embedding) weights.head = source.pack(embedding, trunk.hidden);
    }
    for (const auto& block : trunk.blocks) {
      weights.blocks.push_back(source.read_block(block));
      if (source.failure()) break;
    }
    weights.final_norm = source.read(trunk.final_norm);
    if (trunk.head != trunk.embedding) weights.head = source.pack(source.read(trunk.head), trunk.hidden);
    if (source.failure()) return fail(*source.failure());
    return weights;
  } catch (const std::bad_alloc&) {
    return fail(errc::out_of_memory, fmt::format("the weights of the {} blocks' trunk do not fit into memory; use a "
                                                 "larger machine or --dtype bf16",
                                                 trunk.blocks.size()));
  }
}

}  // namespace troupe::router
