#include "expert_node/shell/arena_plan.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string>

#include <fmt/format.h>

namespace troupe::expert {
namespace {

// The rest is for the system, other nodes on the machine, and bundles on their way.
constexpr double available_share = 0.8;

result<arena_size> without_model(const arena_wishes& wishes) {
  if (!wishes.slots || !wishes.memory_bytes || *wishes.slots == 0) {
    return fail(errc::invalid_request,
                "a node without --model cannot know how large an expert is; give --slots and --memory");
  }
  return arena_size{*wishes.slots, static_cast<std::size_t>(*wishes.memory_bytes / *wishes.slots)};
}

}  // namespace

result<arena_size> plan_arena(const arena_wishes& wishes, const model::description* model, const compute::device& on) {
  if (model == nullptr) return without_model(wishes);
  std::size_t per_slot = 0;
  std::uint64_t experts = 0;
  for (const auto& layer : model->layers) {
    per_slot = std::max(per_slot, on.slot_bytes(layer.shape));
    experts += layer.experts.size();
  }
  if (per_slot == 0) return fail(errc::invalid_request, fmt::format("{} has no experts to serve", model->name));
  if (wishes.slots) {
    if (*wishes.slots == 0) return fail(errc::invalid_request, "--slots 0: a node needs at least one slot");
    if (wishes.memory_bytes && *wishes.memory_bytes / per_slot < *wishes.slots) {
      return fail(errc::invalid_request, fmt::format("--slots {} of {} bytes need more than --memory {}; leave one out",
                                                     *wishes.slots, per_slot, *wishes.memory_bytes));
    }
    return arena_size{*wishes.slots, per_slot};
  }
  const auto bytes = wishes.memory_bytes.value_or(
      static_cast<std::uint64_t>(static_cast<double>(wishes.available_bytes) * available_share));
  const auto fitting = std::min(bytes / per_slot, experts);
  if (fitting == 0) {
    return fail(errc::out_of_memory,
                fmt::format("not one slot of {} bytes fits into {} bytes; give more --memory", per_slot, bytes));
  }
  return arena_size{static_cast<std::uint32_t>(fitting), per_slot};
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  double number = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (failed != std::errc{} || !std::isfinite(number) || number < 0) return std::nullopt;
  std::string unit{end, text.data() + text.size()};
  std::transform(unit.begin(), unit.end(), unit.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  constexpr std::array<std::string_view, 5> powers{"", "k", "m", "g", "t"};
  for (std::size_t power = 0; power < powers.size(); ++power) {
    std::string name{powers[power]};
    bool matches = unit == name || unit == name + "b" || (power > 0 && unit == name + "ib");
    if (!matches) continue;
    const double bytes = std::ldexp(number, static_cast<int>(power) * 10);
    if (bytes >= 0x1p63) return std::nullopt;
    return static_cast<std::uint64_t>(bytes);
  }
  return std::nullopt;
}

}  // namespace troupe::expert
