// One call of a router: rows of one layer, and which of this node's experts shall see which of them.
//
// Filled and validated by the socket thread, then owned by the expert host until its outcome is set, then read by the
// socket thread again. Handed over by messages, so no field needs a lock. Actor messages carry the handle only.
#pragma once

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/tensor.hpp"

namespace troupe::expert {

using time_point = std::chrono::steady_clock::time_point;

// A router's process as this node numbers it; a router that starts again is another one.
using router_number = strong_number<struct router_tag>;

// Names a call for ever: no router process uses an attempt of a request twice.
struct call_id {
  router_number router;
  request_id request;
  std::uint32_t attempt{};
  friend auto operator<=>(const call_id&, const call_id&) = default;
};

struct wanted_expert {
  std::uint32_t index{};  // in the call's layer
  weights_version version;
  std::uint32_t assignments{};  // how many entries of row_index and gate_weight are its own
};

struct call_outcome {
  std::optional<error> failed;          // set: nothing was computed
  std::vector<std::uint32_t> not_held;  // experts whose terms are not in the output
  std::chrono::microseconds waited{};
  std::chrono::microseconds computed{};
};

struct expert_call {
  call_id id;
  layer_id layer;
  time_point arrived;
  time_point deadline;

  // hidden [rows, hidden] in `type`, and as many bytes of output. Both stay valid for the call's life (see `storage`).
  dtype type{dtype::bf16};
  std::uint32_t rows{};
  std::uint32_t hidden{};
  const std::byte* input{};
  std::byte* output{};

  // Expert by expert, in the order of `experts`: entry i adds gate_weight[i] * expert(row_index[i]).
  // Every expert at most once, every row at most once per expert, every weight finite, every index < rows.
  std::vector<wanted_expert> experts;
  std::vector<std::uint32_t> row_index;
  std::vector<float> gate_weight;

  std::shared_ptr<void> storage;                  // what input and output point into, as far as the call owns it
  std::vector<std::optional<slot_index>> pinned;  // by the host while in its hands: where each of `experts` is
  call_outcome outcome;

  [[nodiscard]] std::uint64_t tensor_bytes() const { return std::uint64_t{rows} * hidden * bytes_per_element(type); }
};

using call_handle = std::shared_ptr<expert_call>;

}  // namespace troupe::expert

template <>
struct std::hash<troupe::expert::call_id> {
  std::size_t operator()(const troupe::expert::call_id& id) const noexcept {
    std::uint64_t mixed = id.router.value * 0x9e3779b97f4a7c15ULL ^ id.request.value;
    return std::hash<std::uint64_t>{}(mixed * 0xbf58476d1ce4e5b9ULL + id.attempt);
  }
};
