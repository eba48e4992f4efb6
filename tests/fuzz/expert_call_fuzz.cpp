// RunExperts envelopes and their tensors as the data server checks them, after framing. What is accepted must be what
// the host may compute without looking again. Input: envelope length (2 bytes), envelope, then the bytes that all three
// tensors and the shared segment are cut from.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <span>
#include <vector>

#include "common/wire/framing.hpp"
#include "expert_node/shell/call_decoder.hpp"
#include "proto/router_expert.pb.h"

namespace {

using namespace troupe;

void require(bool holds) {
  if (!holds) std::abort();
}

void check(const expert::expert_call& call) {
  std::size_t entries = 0;
  std::set<std::uint32_t> experts;
  for (const auto& wanted : call.experts) {
    require(experts.insert(wanted.index).second && wanted.assignments > 0);
    std::set<std::uint32_t> rows;
    for (std::uint32_t i = 0; i < wanted.assignments; ++i, ++entries) {
      require(call.row_index.at(entries) < call.rows && rows.insert(call.row_index[entries]).second);
      require(std::isfinite(call.gate_weight.at(entries)));
    }
  }
  require(entries == call.row_index.size() && entries == call.gate_weight.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const auto input = std::as_bytes(std::span(data + 2, size - 2));
  const auto envelope_bytes = std::min<std::size_t>(input.size(), data[0] | data[1] << 8);
  proto::RouterToExpert envelope;
  if (!wire::parse_envelope(input.first(envelope_bytes), envelope) || !envelope.has_run()) return 0;
  // A segment of whole words, so that the views are aligned as they are in a process.
  const auto rest = input.subspan(envelope_bytes);
  std::vector<std::uint64_t> words(rest.size() / sizeof(std::uint64_t));
  const auto segment = std::as_writable_bytes(std::span(words));
  std::copy_n(rest.begin(), segment.size(), segment.begin());
  const auto& run = envelope.run();
  auto hidden = wire::decode_shared_tensor(run.hidden(), segment, "hidden");
  auto rows = wire::decode_shared_tensor(run.row_index(), segment, "row_index");
  auto weights = wire::decode_shared_tensor(run.gate_weight(), segment, "gate_weight");
  if (!hidden || !rows || !weights) return 0;
  const auto width = hidden->shape.back();
  if (width > 0xffffffffU) return 0;
  const auto call = expert::decode_call(run, {*hidden, *rows, *weights}, {static_cast<std::uint32_t>(width), true});
  if (!call) return 0;
  check(**call);
  const auto output = expert::decode_output_range(run.output(), segment, (*call)->tensor_bytes(), hidden->bytes);
  if (output) {
    require(output->data() >= segment.data() && output->data() + output->size() <= segment.data() + segment.size());
  }
  return 0;
}
