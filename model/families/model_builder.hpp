// Turns a family's plan of its layers into checked layers: every tensor is looked up, its shape and dtype compared,
// and cut into the experts' bundles. What is wrong goes to the problem list; nothing stops at the first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/description.hpp"
#include "model/problem_list.hpp"
#include "model/safetensors.hpp"

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

// nullptr, and a problem, when there is no such tensor, its shape is another, or its elements are not F32, F16 or BF16.
const tensor_info* require_tensor(const tensor_index& tensors, problem_list& problems, const std::string& name,
                                  const std::vector<std::uint64_t>& shape);

class model_builder {
 public:
  model_builder(const tensor_index& tensors, problem_list& problems, std::uint32_t hidden);

  void add_layer(layer_plan plan);
  [[nodiscard]] bool has_tensor(std::string_view name) const { return tensors_.contains(name); }
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
  std::optional<bundle_tensor> piece(const layer_plan& plan, const expert_tensor& tensor, std::uint32_t expert);

  const tensor_index& tensors_;
  problem_list& problems_;
  description model_;
};

}  // namespace troupe::model
