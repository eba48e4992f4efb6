// Dynamic pruning: an expert that hardly matters to its layer for a long time is taken out. When rows miss it later, it
// is brought back; one that an operator took out is not.
//
//   matters   its share of the layer's rows, or of the layer's sum over rows of gate weight x norm of the expert's
//   output
//             (what it adds to the outputs, as expert nodes report it live), whichever is larger
//   budget    of each row's gate probability so much may belong to pruned experts: what those that are out would get
//   now,
//             as routers measure it, and this one's share on top. Traffic that comes back shows there first.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/policies/missed_experts.hpp"

namespace troupe::coordinator {
namespace {

struct candidate {
  expert_id expert;
  double matters{};  // shares
  double norm_share{};
  double masked_share{};  // of the layer's pruned experts together
  std::uint64_t rows{}, layer_rows{};
};

std::optional<candidate> coldest_of(const layer_load& layer, const policy_settings& settings) {
  candidate result;
  double layer_norm = 0;
  for (const auto& expert : layer.experts) {
    result.layer_rows += expert.long_rows;
    layer_norm += expert.long_norm;
    if (!expert.is_present && !expert.is_dormant) result.masked_share += expert.masked_share;
  }
  if (layer.is_changing || result.layer_rows < limits::policy_rows_min) return std::nullopt;
  const expert_load* least = nullptr;
  for (const auto& expert : layer.experts) {
    if (!expert.is_present || expert.is_fixed || !expert.was_watched) continue;
    double rows = static_cast<double>(expert.long_rows) / static_cast<double>(result.layer_rows);
    double norm = layer_norm > 0 ? expert.long_norm / layer_norm : 0;
    if (least != nullptr && std::max(rows, norm) >= result.matters) continue;
    least = &expert;
    result.matters = std::max(rows, norm);
    result.norm_share = norm;
  }
  if (least == nullptr || result.matters >= settings.prune_share) return std::nullopt;
  if (result.masked_share + result.matters > settings.prune_masked_max) return std::nullopt;
  result.expert = {layer.id, least->index};
  result.rows = least->long_rows;
  return result;
}

std::string in_words(std::chrono::duration<double> time) {
  if (time < std::chrono::minutes(2)) return fmt::format("{:.0f} s", time.count());
  if (time < std::chrono::hours(2)) return fmt::format("{:.3g} min", time.count() / 60);
  return fmt::format("{:.3g} h", time.count() / 3600);
}

}  // namespace

std::vector<proposal> propose_prunes(const policy_input& input, const policy_settings& settings) {
  std::vector<candidate> coldest;
  for (const auto& layer : input.layers) {
    if (auto found = coldest_of(layer, settings)) coldest.push_back(*found);
  }
  std::ranges::stable_sort(coldest, {}, &candidate::matters);
  std::vector<proposal> proposals;
  for (const auto& cold : coldest) {
    auto rows_share = static_cast<double>(cold.rows) / static_cast<double>(cold.layer_rows);
    proposals.push_back(
        {change_presence{cold.expert, change_presence::verb::prune, false, true}, "pruning",
         fmt::format("{} of its layer's {} rows in {} were its own, {:.2f} %, and {:.2f} % of their gate weight x "
                     "output norm (pruned under {:.1f} %); {:.1f} % of the layer's gate probability is pruned already",
                     cold.rows, cold.layer_rows, in_words(settings.prune_window), 100 * rows_share,
                     100 * cold.norm_share, 100 * settings.prune_share, 100 * cold.masked_share)});
  }
  return proposals;
}

// Within a minute, while taking out takes a day: rows that cannot have their expert are answered by another one. Twice
// the share below which it went, so that what is at the border stays where it is.
std::vector<proposal> propose_returns(const policy_input& input, const policy_settings& settings) {
  const double return_share = limits::prune_return_factor * settings.prune_share;
  std::vector<proposal> proposals;
  for (const auto& [expert, share, rows] : most_missed(input, &expert_load::may_return, return_share)) {
    proposals.push_back({change_presence{expert, change_presence::verb::restore, false}, "pruning",
                         fmt::format("{:.1f} % of the gate probability of {} rows went to it while it was pruned "
                                     "(brought back from {:.1f} %)",
                                     100 * share, rows, 100 * return_share)});
  }
  return proposals;
}

}  // namespace troupe::coordinator
