// What goes in and out of the dispatcher: calls to expert hosts, their answers, finished requests. Plain values.
#pragma once

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/node_pace.hpp"
#include "common/tensor.hpp"
#include "model/gating.hpp"

namespace troupe::router {

using time_point = std::chrono::steady_clock::time_point;
using host_index = std::uint32_t;  // of an expert host in host_table

// What happens to a row when no replica of one of its experts is left.
// `leave_out` is the generation engine's: the row is flagged as missing and the others are answered, so that one text's
// lost expert does not hold up the batch. Clients cannot name it.
enum class degrade : std::uint8_t { wait, substitute, renormalise, fail, leave_out };

// Bits of a row's flag.
inline constexpr std::uint8_t flag_substituted = 1;
inline constexpr std::uint8_t flag_renormalised = 2;
inline constexpr std::uint8_t flag_dropped = 4;
inline constexpr std::uint8_t flag_missing = 8;     // leave_out only: the sum is not to be used
inline constexpr std::uint8_t flag_refreshed = 16;  // of a token: by other versions than its pinned text began with
inline constexpr std::uint8_t flag_gone =
    32;  // beside flag_missing: nobody holds the version that was asked for any more

// Names one call for ever: attempts of one request never repeat a number.
struct call_id {
  request_id request;
  std::uint32_t attempt{};
  friend constexpr auto operator<=>(const call_id&, const call_id&) = default;
};

struct expert_rows {
  std::uint32_t expert{};
  weights_version version;
  std::uint32_t assignments{};
  friend bool operator==(const expert_rows&, const expert_rows&) = default;
};

// One message to one host. Assignments are listed expert by expert, in the order of `experts`.
struct outgoing_call {
  call_id id;
  node_id host;
  incarnation_number incarnation;
  layer_id layer;
  term_number term;
  epoch_number epoch;
  std::chrono::milliseconds time_left{};  // of the request's deadline
  bool is_retry{};
  std::vector<std::uint32_t> rows;  // [R] rows of the request, ascending
  std::vector<expert_rows> experts;
  std::vector<std::int32_t> row_index;  // [A] positions in `rows`
  std::vector<float> gate_weight;       // [A]
};

// [R, H] in the request's wire dtype. `keep` owns the bytes; released as soon as they are combined or dropped.
struct partial_rows {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> keep;
};

struct call_answer {
  call_id id;
  node_id host;
  incarnation_number incarnation;
  std::variant<partial_rows, error> outcome;
  std::vector<std::uint32_t> not_held;  // experts whose terms are not in the rows
};

enum class answer_fate : std::uint8_t {
  accepted,  // its rows count
  refused,   // an error of the host; its experts go elsewhere
  late,      // of a call that was given up
  repeated,  // of a call that was answered already
  foreign,   // of no call of this router, or from another host than the called one
};

struct answer_report {
  answer_fate fate{answer_fate::foreign};
  layer_id layer;                         // accepted and refused only
  std::chrono::nanoseconds round_trip{};  // accepted only
};

// One accepted request. The routing may name -1: no expert.
struct dispatch_request {
  layer_id layer;
  std::uint32_t num_experts{};
  std::uint32_t groups{1};  // of neighbouring experts; those of one are asked of the same host where that is possible
  std::uint32_t rows{};
  std::uint32_t hidden{};
  dtype wire{dtype::f32};  // of the rows that hosts send back: f32 or bf16
  model::routing routing;
  std::vector<std::uint8_t> mask{};  // that the gate chose under: dispatcher::gate_mask; empty: none
  // By the expert versions of that map; none: by those that are served when its calls are made.
  std::optional<epoch_number> versions_of{};
  degrade policy{degrade::wait};
  time_point deadline;
  // Chooses again for all rows under a mask of available experts. Empty: the caller chose; `substitute` cannot be, and
  // the request fails with `conflict` when one of its experts is masked and has no replica left.
  std::function<result<model::routing>(model::expert_mask)> choose_again;
};

// For a caller that gated itself and chose an expert that nobody may choose.
[[nodiscard]] error masked_expert(const expert_id& expert);

struct layer_result {
  std::vector<float> sums;          // [T, H]: routed experts only
  model::routing routing;           // after substitution, before capacity
  std::vector<std::uint8_t> flags;  // [T]
  // Of the newest map that a call went by, among those with the masks and weights of the answer; of versions that are
  // served no more: dispatch_request::versions_of.
  epoch_number epoch;
};

struct finished_request {
  request_id id;
  std::variant<layer_result, error> outcome;
};

// A host became slow, or fast again.
struct pace_change {
  node_id host;
  node_pace from{};
  node_pace to{};
  std::string reason;
};

struct dispatch_output {
  std::vector<outgoing_call> calls;
  std::vector<finished_request> finished;
  std::vector<pace_change> pace_changes;
  [[nodiscard]] bool empty() const { return calls.empty() && finished.empty() && pace_changes.empty(); }
};

}  // namespace troupe::router
