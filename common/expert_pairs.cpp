#include "common/expert_pairs.hpp"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "common/ids.hpp"
#include "proto/node_coordinator.pb.h"

namespace troupe {
namespace {

bool has_more_rows(const expert_pair& a, const expert_pair& b) {
  return std::tuple(b.rows, a.first, a.second) < std::tuple(a.rows, b.first, b.second);
}

bool is_before(const expert_pair& a, const expert_pair& b) {
  return std::tuple(a.first, a.second) < std::tuple(b.first, b.second);
}

}  // namespace

std::uint64_t keep_most(std::vector<expert_pair>& pairs, std::size_t most) {
  std::uint64_t left_out = 0;
  if (pairs.size() > most) {
    const auto border = pairs.begin() + static_cast<std::ptrdiff_t>(most);
    std::nth_element(pairs.begin(), border, pairs.end(), has_more_rows);
    left_out = border->rows;
    pairs.erase(border, pairs.end());
  }
  std::sort(pairs.begin(), pairs.end(), has_more_rows);
  return left_out;
}

void merge(pair_counts& into, const pair_counts& more, std::size_t most) {
  into.rows += more.rows;
  into.expert_rows.resize(std::max(into.expert_rows.size(), more.expert_rows.size()));
  for (std::size_t e = 0; e < more.expert_rows.size(); ++e) into.expert_rows[e] += more.expert_rows[e];
  auto all = std::move(into.pairs);
  all.insert(all.end(), more.pairs.begin(), more.pairs.end());
  std::sort(all.begin(), all.end(), is_before);
  into.pairs.clear();
  for (const auto& pair : all) {
    const bool is_new = into.pairs.empty() || is_before(into.pairs.back(), pair);
    if (is_new) {
      into.pairs.push_back(pair);
    } else {
      into.pairs.back().rows += pair.rows;
    }
  }
  into.missed_max += more.missed_max + keep_most(into.pairs, most);
}

void to_proto(const pair_counts& counts, proto::LayerPairs& message) {
  message.set_rows(counts.rows);
  message.mutable_expert_rows()->Add(counts.expert_rows.begin(), counts.expert_rows.end());
  for (const auto& pair : counts.pairs) {
    message.add_first(pair.first);
    message.add_second(pair.second);
    message.add_pair_rows(pair.rows);
  }
  message.set_missed_max(counts.missed_max);
}

result<pair_counts> pair_counts_from(const proto::LayerPairs& message) {
  const auto refuse = [&](const std::string& why) {
    return fail(errc::invalid_request,
                fmt::format("stats.pairs of layer {}: {}", to_string(layer_id{message.layer()}), why));
  };
  const auto num_experts = static_cast<std::size_t>(message.expert_rows_size());
  const auto num_pairs = static_cast<std::size_t>(message.first_size());
  if (num_experts > limits::pair_experts_max || num_pairs > limits::expert_pairs_max) {
    return refuse(fmt::format("{} experts and {} pairs; at most {} and {}", num_experts, num_pairs,
                              limits::pair_experts_max, limits::expert_pairs_max));
  }
  if (message.second_size() != message.first_size() || message.pair_rows_size() != message.first_size())
    return refuse("first, second and pair_rows differ in length");
  pair_counts counts{
      message.rows(), {message.expert_rows().begin(), message.expert_rows().end()}, {}, message.missed_max()};
  if (std::ranges::any_of(counts.expert_rows, [&](auto rows) { return rows > counts.rows; }))
    return refuse("an expert has more rows than there were");
  for (int i = 0; i < message.first_size(); ++i) {
    const expert_pair pair{message.first(i), message.second(i), message.pair_rows(i)};
    if (pair.first >= pair.second || pair.second >= num_experts)
      return refuse(fmt::format("{} and {} are no pair of {} experts", pair.first, pair.second, num_experts));
    if (pair.rows > std::min(counts.expert_rows[pair.first], counts.expert_rows[pair.second]))
      return refuse(fmt::format("{} and {} have more rows together than one of them", pair.first, pair.second));
    counts.pairs.push_back(pair);
  }
  return counts;
}

}  // namespace troupe
