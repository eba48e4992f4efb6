#include "router_node/core/request_state.hpp"

#include <algorithm>
#include <cmath>

#include "router_node/core/combine.hpp"

namespace troupe::router {

request_state::request_state(request_id number, dispatch_request accepted) : id(number), input(std::move(accepted)) {
  flags.resize(input.rows);
}

call* request_state::find_call(std::uint32_t attempt) {
  return attempt == 0 || attempt > calls.size() ? nullptr : &calls[attempt - 1];
}

bool request_state::is_complete() const {
  return combined == calls.size() && std::ranges::none_of(terms, [](const term& t) { return t.is_open(); });
}

std::size_t request_state::add_terms(const std::vector<std::uint8_t>* marked) {
  const auto first = terms.size();
  const auto& routing = input.routing;
  std::vector<std::uint32_t> place(input.num_experts, UINT32_MAX);
  for (std::uint32_t row = 0; row < input.rows; ++row) {
    if (marked != nullptr && (*marked)[row] == 0) continue;
    if (!routing.limited.empty() && routing.limited[row] != 0) flags[row] |= flag_substituted;
    if (!routing.explored.empty() && routing.explored[row] != 0) flags[row] |= flag_substituted;
    for (std::size_t a = std::size_t{row} * routing.top_k; a < std::size_t{row + 1} * routing.top_k; ++a) {
      if (routing.expert_ids[a] < 0) continue;
      if (!routing.dropped.empty() && routing.dropped[a] != 0) {
        flags[row] |= flag_dropped;
        continue;
      }
      const auto expert = static_cast<std::uint32_t>(routing.expert_ids[a]);
      if (place[expert] == UINT32_MAX) {
        place[expert] = static_cast<std::uint32_t>(terms.size());
        terms.push_back({.expert = expert});
      }
      auto& rows = terms[place[expert]].assignments;
      if (!rows.empty() && rows.back().row == row) {
        rows.back().weight += routing.weights[a];  // a caller may name an expert twice
      } else {
        rows.push_back({row, routing.weights[a]});
      }
    }
  }
  return first;
}

void request_state::choose_again(const model::routing& chosen, const std::vector<std::uint8_t>& marked) {
  const auto k = input.routing.top_k;
  if (ignore_through.empty()) ignore_through.resize(input.rows);
  if (input.routing.dropped.empty() && !chosen.dropped.empty()) input.routing.dropped.resize(chosen.dropped.size());
  for (std::uint32_t row = 0; row < input.rows; ++row) {
    if (marked[row] == 0) continue;
    const auto at = std::ptrdiff_t{row} * k;
    if (!std::equal(&chosen.expert_ids[at], &chosen.expert_ids[at] + k, &input.routing.expert_ids[at])) {
      flags[row] |= flag_substituted;
    }
    std::copy_n(&chosen.expert_ids[at], k, &input.routing.expert_ids[at]);
    std::copy_n(&chosen.weights[at], k, &input.routing.weights[at]);
    if (!chosen.dropped.empty()) std::copy_n(&chosen.dropped[at], k, &input.routing.dropped[at]);
    flags[row] = static_cast<std::uint8_t>(flags[row] & ~flag_dropped);  // add_terms says it anew
    ignore_through[row] = static_cast<std::uint32_t>(calls.size());
    if (!sums.empty()) std::fill_n(sums.begin() + std::ptrdiff_t{row} * input.hidden, input.hidden, 0.0F);
  }
  for (auto& t : terms) {
    if (!t.is_open()) continue;
    std::erase_if(t.assignments, [&](const assignment& a) { return marked[a.row] != 0; });
    if (t.assignments.empty()) t.state = term_settled{};
  }
  add_terms(&marked);
}

void request_state::begin_anew(model::routing chosen, std::vector<std::uint8_t> mask) {
  input.routing = std::move(chosen);
  input.mask = std::move(mask);
  ignore_through.assign(input.rows, static_cast<std::uint32_t>(calls.size()));
  std::ranges::fill(sums, 0.0F);
  std::ranges::fill(flags, std::uint8_t{0});
  scale.clear();
  for (auto& t : terms) {
    t.assignments.clear();
    t.state = term_settled{};
  }
  add_terms();
}

// Of the row's terms that count, without those given up.
double request_state::weight_left(std::uint32_t row) const {
  double left = 0;
  for (const auto& t : terms) {
    if (std::holds_alternative<term_given_up>(t.state)) continue;
    const auto at = std::ranges::lower_bound(t.assignments, row, {}, &assignment::row);
    if (at != t.assignments.end() && at->row == row) left += double{at->weight};
  }
  return left;
}

bool request_state::give_up_term(std::uint32_t index) {
  if (scale.empty()) scale.assign(input.rows, 1.0F);
  for (const auto& lost : terms[index].assignments) {
    const auto before = weight_left(lost.row);
    const auto after = before - double{lost.weight};
    if (!(std::abs(after) > 1e-6 * std::abs(before))) return false;
    scale[lost.row] = static_cast<float>(double{scale[lost.row]} * before / after);
    flags[lost.row] |= flag_renormalised;
  }
  terms[index].state = term_given_up{};
  return true;
}

void request_state::leave_out_term(std::uint32_t index, bool is_gone) {
  for (const auto& lost : terms[index].assignments) {
    flags[lost.row] |= flag_missing;
    if (is_gone) flags[lost.row] |= flag_gone;
  }
  terms[index].state = term_given_up{};
}

void request_state::combine_ready() {
  for (; combined < calls.size(); ++combined) {
    auto& next = calls[combined];
    if (std::holds_alternative<call_in_flight>(next.state)) return;
    if (const auto* answered = std::get_if<call_answered>(&next.state)) {
      combine(next, static_cast<std::uint32_t>(combined + 1), answered->output);
      next.state = call_combined{};
    }
  }
}

void request_state::combine(const call& answered, std::uint32_t attempt, const partial_rows& output) {
  make_sums();
  const auto hidden = std::size_t{input.hidden};
  const auto row_bytes = hidden * bytes_per_element(input.wire);
  const auto* from = output.bytes.data();
  for (const auto row : answered.rows) {
    if (ignore_through.empty() || ignore_through[row] < attempt) {
      add_row(std::span(sums).subspan(row * hidden, hidden), from, input.wire);
    }
    from += row_bytes;
  }
}

// Not before there is something to add: by then the hosts are at work.
void request_state::make_sums() { sums.resize(std::size_t{input.rows} * input.hidden); }

layer_result request_state::take_result() {
  make_sums();
  for (std::size_t row = 0; row < scale.size(); ++row) {
    if (scale[row] == 1.0F) continue;
    for (auto& value : std::span(sums).subspan(row * input.hidden, input.hidden)) value *= scale[row];
  }
  return {std::move(sums), std::move(input.routing), std::move(flags), epoch};
}

}  // namespace troupe::router
