#include "expert_node/shell/call_decoder.hpp"

#include <cmath>
#include <cstring>
#include <unordered_set>
#include <vector>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "proto/router_expert.pb.h"

namespace troupe::expert {
namespace {

// What the routers' allocator rounds to, and more than any element type needs.
constexpr std::uint64_t range_alignment = 8;

result<void> decode_experts(const proto::RunExperts& message, expert_call& call) {
  if (message.experts().empty()) return fail(errc::invalid_request, "experts: the list is empty");
  if (static_cast<std::size_t>(message.experts_size()) > limits::experts_per_layer_max) {
    return fail(errc::invalid_request, fmt::format("experts: {} entries, at most {} are allowed",
                                                   message.experts_size(), limits::experts_per_layer_max));
  }
  std::unordered_set<std::uint32_t> seen;
  for (int position = 0; position < message.experts_size(); ++position) {
    const auto& wanted = message.experts(position);
    if (wanted.assignments() == 0) {
      return fail(errc::invalid_request,
                  fmt::format("experts[{}].assignments: 0 for expert {}; leave it out", position, wanted.expert()));
    }
    if (!seen.insert(wanted.expert()).second) {
      return fail(errc::invalid_request,
                  fmt::format("experts[{}].expert: {} is listed twice", position, wanted.expert()));
    }
    call.experts.push_back({wanted.expert(), {wanted.version()}, wanted.assignments()});
  }
  return {};
}

result<void> decode_hidden(const tensor_view& hidden, const decode_rules& rules, expert_call& call) {
  if (hidden.type != dtype::f32 && hidden.type != dtype::bf16) {
    return fail(errc::invalid_request,
                fmt::format("hidden.dtype: {} is not supported; send F32 or BF16", to_string(hidden.type)));
  }
  if (hidden.shape.size() != 2 || hidden.shape[0] == 0 || hidden.shape[1] != rules.hidden) {
    return fail(errc::invalid_request, fmt::format("hidden.shape: [{}], expected [rows, {}] with at least one row",
                                                   fmt::join(hidden.shape, ", "), rules.hidden));
  }
  if (hidden.shape[0] > limits::rows_per_request_max) {
    return fail(errc::too_large, fmt::format("hidden: {} rows, at most {} go into one call; split it", hidden.shape[0],
                                             limits::rows_per_request_max));
  }
  call.type = hidden.type;
  call.rows = static_cast<std::uint32_t>(hidden.shape[0]);
  call.hidden = rules.hidden;
  return {};
}

result<void> check_list(const tensor_view& list, dtype type, std::uint64_t assignments, const char* field) {
  if (list.type != type) {
    return fail(errc::invalid_request,
                fmt::format("{}.dtype: {}, expected {}", field, to_string(list.type), to_string(type)));
  }
  if (list.shape.size() != 1 || list.shape[0] != assignments) {
    return fail(errc::invalid_request, fmt::format("{}.shape: [{}], but the experts have {} assignments", field,
                                                   fmt::join(list.shape, ", "), assignments));
  }
  return {};
}

template <class Element>
std::vector<Element> copy_of(const tensor_view& list) {
  std::vector<Element> elements(list.bytes.size() / sizeof(Element));
  std::memcpy(elements.data(), list.bytes.data(), elements.size() * sizeof(Element));
  return elements;
}

result<void> decode_assignments(const call_tensors& tensors, expert_call& call) {
  std::uint64_t total = 0;
  for (const auto& wanted : call.experts) total += wanted.assignments;
  if (auto fits = check_list(tensors.row_index, dtype::i32, total, "row_index"); !fits) return fits;
  if (auto fits = check_list(tensors.gate_weight, dtype::f32, total, "gate_weight"); !fits) return fits;
  auto rows = copy_of<std::int32_t>(tensors.row_index);
  call.gate_weight = copy_of<float>(tensors.gate_weight);
  call.row_index.reserve(rows.size());
  std::vector<std::uint32_t> last_expert(call.rows);  // 1 + position in call.experts; 0: none yet
  std::size_t entry = 0;
  for (std::uint32_t position = 0; position < call.experts.size(); ++position) {
    for (std::uint32_t count = 0; count < call.experts[position].assignments; ++count, ++entry) {
      auto row = rows[entry];
      if (row < 0 || static_cast<std::uint32_t>(row) >= call.rows) {
        return fail(errc::invalid_request,
                    fmt::format("row_index[{}]: {} is outside of the {} rows", entry, row, call.rows));
      }
      auto& last = last_expert[static_cast<std::uint32_t>(row)];
      if (last == position + 1) {
        return fail(errc::invalid_request, fmt::format("row_index[{}]: row {} goes to expert {} twice", entry, row,
                                                       call.experts[position].index));
      }
      last = position + 1;
      if (!std::isfinite(call.gate_weight[entry])) {
        return fail(errc::invalid_request,
                    fmt::format("gate_weight[{}]: {} is not finite", entry, call.gate_weight[entry]));
      }
      call.row_index.push_back(static_cast<std::uint32_t>(row));
    }
  }
  return {};
}

// First row that holds a NaN or an infinity.
std::optional<std::uint32_t> first_nonfinite_row(const tensor_view& hidden, const expert_call& call) {
  const auto elements = std::size_t{call.rows} * call.hidden;
  for (std::size_t element = 0; element < elements; ++element) {
    bool finite = false;
    if (call.type == dtype::f32) {
      float value = 0;
      std::memcpy(&value, hidden.bytes.data() + element * sizeof value, sizeof value);
      finite = std::isfinite(value);
    } else {
      std::uint16_t bits = 0;
      std::memcpy(&bits, hidden.bytes.data() + element * sizeof bits, sizeof bits);
      finite = (bits & 0x7f80U) != 0x7f80U;
    }
    if (!finite) return static_cast<std::uint32_t>(element / call.hidden);
  }
  return std::nullopt;
}

}  // namespace

result<call_handle> decode_call(const proto::RunExperts& message, const call_tensors& tensors,
                                const decode_rules& rules) {
  auto call = std::make_shared<expert_call>();
  call->id.request = {message.request_id()};
  call->id.attempt = message.attempt();
  call->layer = {message.layer()};
  if (auto done = decode_experts(message, *call); !done) return fail(done.error());
  if (auto done = decode_hidden(tensors.hidden, rules, *call); !done) return fail(done.error());
  if (auto done = decode_assignments(tensors, *call); !done) return fail(done.error());
  if (rules.reject_nonfinite) {
    if (auto row = first_nonfinite_row(tensors.hidden, *call)) {
      return fail(errc::invalid_request,
                  fmt::format("hidden: row {} holds NaN or infinity; this node is set to reject it", *row));
    }
  }
  return call;
}

result<std::span<std::byte>> decode_output_range(const proto::SharedRange& range, std::span<std::byte> segment,
                                                 std::uint64_t bytes, std::span<const std::byte> input) {
  if (range.bytes() != bytes) {
    return fail(errc::invalid_request, fmt::format("output.bytes: {}, the answer has {}", range.bytes(), bytes));
  }
  if (range.offset() > segment.size() || range.bytes() > segment.size() - range.offset()) {
    return fail(errc::invalid_request, fmt::format("output: range {} + {} leaves the segment of {} bytes",
                                                   range.offset(), range.bytes(), segment.size()));
  }
  if (range.offset() % range_alignment != 0) {
    return fail(errc::invalid_request,
                fmt::format("output.offset: {} is not a multiple of {}", range.offset(), range_alignment));
  }
  auto output = segment.subspan(range.offset(), range.bytes());
  if (output.data() < input.data() + input.size() && input.data() < output.data() + output.size()) {
    return fail(errc::invalid_request,
                fmt::format("output: range {} + {} overlaps the rows of hidden", range.offset(), range.bytes()));
  }
  return output;
}

}  // namespace troupe::expert
