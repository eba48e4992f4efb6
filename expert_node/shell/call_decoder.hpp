// From a RunExperts message and its tensors to a call that the host can compute without looking twice.
// Pure functions, any thread; what data_server and the fuzzer call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "expert_node/core/expert_call.hpp"

namespace troupe::proto {
class RunExperts;
class SharedRange;
}  // namespace troupe::proto

namespace troupe::expert {

// Views whose shape and bytes have been checked against each other. They may lie in memory that the peer can change:
// row numbers and weights are copied before they are checked.
struct call_tensors {
  tensor_view hidden;
  tensor_view row_index;
  tensor_view gate_weight;
};

struct decode_rules {
  std::uint32_t hidden{};   // the layer's row length
  bool reject_nonfinite{};  // refuse rows with NaN or infinity (faults.md W9); else they propagate
};

// Fills everything but input, output, storage and times. invalid_request names the field and the numbers; too_large
// above limits::rows_per_request_max.
[[nodiscard]] result<call_handle> decode_call(const proto::RunExperts& message, const call_tensors& tensors,
                                              const decode_rules& rules);

// Where the answer shall be written: the range must lie inside the segment, hold exactly `bytes`, be aligned and not
// touch `input`. invalid_request with the numbers.
[[nodiscard]] result<std::span<std::byte>> decode_output_range(const proto::SharedRange& range,
                                                               std::span<std::byte> segment, std::uint64_t bytes,
                                                               std::span<const std::byte> input);

}  // namespace troupe::expert
