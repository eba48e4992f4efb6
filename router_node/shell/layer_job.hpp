// One request for one layer, from wherever it came, and its answer. Plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/raw_vector.hpp"
#include "common/tensor.hpp"
#include "model/gating.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

struct layer_answer {
  epoch_number epoch;
  dtype type{dtype::f32};  // of the request and of both outputs
  std::uint32_t rows{};
  std::uint32_t hidden{};
  std::uint32_t top_k{};
  raw_vector<std::byte> output;          // [T, H]: the whole block
  raw_vector<std::byte> routed;          // [T, H]; empty: equal to output
  std::vector<std::int32_t> expert_ids;  // [T, k]
  std::vector<float> expert_weights;     // [T, k]
  std::vector<std::uint8_t> flags;       // [T]

  [[nodiscard]] std::size_t bytes() const {
    return output.size() + routed.size() + 4 * expert_ids.size() + 4 * expert_weights.size() + flags.size();
  }
};

using layer_outcome = result<std::shared_ptr<const layer_answer>>;

struct layer_job {
  const layer_plan* layer{};
  tensor_view hidden;                         // checked with check_hidden
  std::shared_ptr<const void> keep;           // owns the bytes of `hidden`
  std::optional<model::routing> given;        // the caller has gated: only the weighted sum is asked for
  std::optional<epoch_number> versions_of{};  // dispatch_request::versions_of
  degrade policy{degrade::wait};
  bool is_part_of_text{};  // asked by the generation engine, not by a client: no request of its own in the metrics
  time_point arrived;
  time_point deadline;
  std::function<void(layer_outcome)> done;  // once, on the router's thread
};

}  // namespace troupe::router
