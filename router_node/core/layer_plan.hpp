// What the router has to know of each MoE layer to check a request before any work is done. Pure values and functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/tensor.hpp"
#include "model/description.hpp"
#include "model/gating.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

struct layer_plan {
  layer_id id;
  std::uint32_t place{};  // index into description::layers
  std::uint32_t num_experts{};
  std::uint32_t top_k{};
  std::uint32_t hidden{};
  std::uint32_t groups{1};  // that the experts are cut into, by the family or by a group_limit
  bool has_capacity{};      // one call is one sequence
  bool has_shared{};
};

class model_plan {
 public:
  // `wire`: the dtype in which the cluster's rows travel. @pre model::limit_groups takes the limit
  [[nodiscard]] static model_plan make(const model::description& model, dtype wire,
                                       const model::group_limit& limit = {});

  [[nodiscard]] const std::vector<layer_plan>& layers() const { return layers_; }
  [[nodiscard]] dtype wire() const { return wire_; }

  // "3", "encoder.1". not_found names the layers that there are. The pointer lives as long as the plan.
  [[nodiscard]] result<const layer_plan*> find(std::string_view text) const;
  [[nodiscard]] const layer_plan* find(layer_id layer) const;  // nullptr: no MoE layer of that number

 private:
  std::vector<layer_plan> layers_;
  dtype wire_{dtype::f32};
};

// f32 or bf16: what the cluster computes in. `asked`: "auto", "f32" or "bf16"; auto follows the stored weights, f16
// becomes f32 because nothing computes in f16.
[[nodiscard]] result<dtype> resolve_dtype(std::string_view asked, dtype stored);

// -- what a request may say (faults.md W7-W10) ------------------------------------------------------------------------

// [T, H] in f32, f16 or bf16, T between 1 and the limit, all values finite. invalid_request or too_large with the
// numbers; the first row that is not finite is named.
[[nodiscard]] result<void> check_hidden(const layer_plan& layer, const tensor_view& hidden);

// The caller's own choice: ids [T, k] i32 in [-1, N), weights [T, k] f32, finite. unknown_expert names row and id.
[[nodiscard]] result<model::routing> check_choice(const layer_plan& layer, std::uint64_t rows, const tensor_view& ids,
                                                  const tensor_view& weights);

// 0: the default. Longer than the longest: the longest.
[[nodiscard]] std::chrono::milliseconds request_timeout(std::uint64_t asked_ms);

[[nodiscard]] std::optional<degrade> parse_degrade(std::string_view text);
inline constexpr std::string_view degrade_names = "wait, substitute, renormalise, fail";

}  // namespace troupe::router
