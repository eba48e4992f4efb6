// Turns a family's plan of its layers into checked layers: every tensor is looked up, its shape and dtype compared,
// and cut into the experts' bundles. What is wrong goes to the problem list; nothing stops at the first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/description.hpp"
#include "model/families/stored_tensors.hpp"
#include "model/problem_list.hpp"

namespace troupe::model {

// Where one tensor of expert E stands: in a tensor of its own, `before` + E + `after`, or as piece E along the first
// dimension of the tensor `before` that holds all experts.
struct expert_tensor {
  tensor_role role{tensor_role::gate};
  std::string before;
  std::string after;
  bool packed{};
  bool transposed{};  // stored [in, out]
};

struct layer_plan {
  layer_id id;
  gating gate;
  expert_shape shape;
  std::optional<shared_expert> shared;
  std::vector<expert_tensor> tensors;  // in the bundle's order
};

class model_builder {
 public:
  model_builder(const stored_tensors& tensors, problem_list& problems, std::uint32_t hidden);

  void add_layer(layer_plan plan);
  [[nodiscard]] bool has_tensor(std::string_view name) const { return tensors_.index.contains(name); }
  // Layers ordered by id. Name, family and fingerprint are the caller's.
  [[nodiscard]] description take();

 private:
  const tensor_info* require(const std::string& name, const std::vector<std::uint64_t>& shape);
  void check_gate(const layer_plan& plan);
  void check_shared(const shared_expert& shared);
  // By index: has the expert at least one tensor? Reports experts that have none, and those that are too many, as one
  // row.
  std::vector<bool> find_present(const layer_plan& plan);
  void report_count(const layer_plan& plan, const std::vector<bool>& present, std::vector<std::uint32_t> surplus);
  const tensor_info* require_piece(const bundle_tensor& cut, const expert_tensor& tensor, std::uint32_t expert,
                                   std::uint32_t num_experts);
  std::optional<bundle_tensor> piece(const layer_plan& plan, const expert_tensor& tensor, std::uint32_t expert);
  // Of an fp8 weight, which was required with them.
  [[nodiscard]] bundle_tensor scales_of(const bundle_tensor& weight, const expert_shape& shape) const;

  const stored_tensors& tensors_;
  problem_list& problems_;
  description model_;
};

}  // namespace troupe::model
