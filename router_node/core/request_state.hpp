// One request inside the dispatcher: its terms, its calls, its sums. Internal to the dispatcher; no I/O, no time.
//
// A *term* is one expert with the rows that need it. It is parked, in a call, settled (its rows are in an answer), or
// given up (renormalise). A *call* is in flight, answered (waiting for its turn), combined, or given up.
// The terms of a hedged call stay in it until it or its doubles are complete.
// Answers are combined strictly in call order, so that sums do not depend on who answers first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "router_node/core/host_table.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

struct term_parked {
  bool pays{};              // its next call is charged to the retry budget
  time_point not_before{};  // the retry budget's word
  std::string reason{};     // why nobody can be asked
};
struct term_in_call {
  std::uint32_t attempt{};
};
struct term_settled {};
struct term_given_up {};
using term_state = std::variant<term_parked, term_in_call, term_settled, term_given_up>;

struct assignment {
  std::uint32_t row{};
  float weight{};
};

struct term {
  std::uint32_t expert{};
  std::vector<assignment> assignments{};  // rows ascending, each once
  term_state state{term_parked{}};
  std::uint32_t tries{};
  std::string last_failure{};

  [[nodiscard]] bool is_open() const {
    return std::holds_alternative<term_parked>(state) || std::holds_alternative<term_in_call>(state);
  }
};

struct call_in_flight {
  incarnation_number incarnation;
  std::uint64_t link_generation{};
  time_point times_out;
};
struct call_answered {
  partial_rows output;
};
struct call_combined {};
struct call_given_up {};
using call_state = std::variant<call_in_flight, call_answered, call_combined, call_given_up>;

struct call {
  host_index host{};
  time_point sent;
  std::vector<std::uint32_t> terms;  // indices into request_state::terms
  std::vector<std::uint32_t> rows;
  call_state state;
  bool is_retry{};
  // Hedging (dispatcher_hedge.cpp).
  std::optional<time_point> hedge_at{};  // when it is sent to other hosts too
  std::vector<std::uint32_t> hedges{};   // attempts that compute its terms too
  std::uint32_t doubles{};               // the attempt whose terms it computes too; 0: none
};

// A host that is not asked again by this request, until map or link change or the time is over.
struct exclusion {
  host_index host{};
  std::optional<std::uint32_t> expert;  // none: for every expert
  epoch_number epoch;
  std::uint64_t link_generation{};
  time_point until;
};

struct request_state {
  request_id id;
  dispatch_request input;
  epoch_number epoch;
  std::uint64_t weights{};  // host_table::weights_of: the versions by which its calls go
  std::vector<term> terms;
  std::vector<call> calls;  // the call of attempt n stands at n - 1
  std::vector<exclusion> exclusions;
  std::size_t combined{};                     // calls before this one are combined or given up
  std::vector<float> sums;                    // [T, H]; empty before the first answer
  std::vector<std::uint8_t> flags;            // [T]
  std::vector<std::uint32_t> ignore_through;  // [T]: rows of calls up to this attempt do not count; empty: none
  std::vector<float> scale;                   // [T]: renormalise; empty: none
  bool is_over{};                             // finished or cancelled: touch nothing more

  request_state(request_id number, dispatch_request accepted);

  [[nodiscard]] call* find_call(std::uint32_t attempt);
  [[nodiscard]] bool is_complete() const;

  // Terms for all rows of the routing, or for the rows with marked[row] != 0. Returns the first new term's index.
  std::size_t add_terms(const std::vector<std::uint8_t>* marked = nullptr);

  // Takes another choice over for the marked rows: what was computed for them is void, their old terms shrink or end.
  void choose_again(const model::routing& chosen, const std::vector<std::uint8_t>& marked);

  // Takes another gating over for all rows: nothing that was computed or decided counts any more.
  void begin_anew(model::routing chosen, std::vector<std::uint8_t> mask);

  // Drops a term; the rows' other terms are scaled up to the same sum of weights.
  // False when one of the rows has no other term left.
  [[nodiscard]] bool give_up_term(std::uint32_t index);

  // Drops a term without making up for it: its rows are flagged as missing, and as gone when that is for ever.
  void leave_out_term(std::uint32_t index, bool is_gone);

  // Adds up what can be added in order.
  void combine_ready();
  // Scales renormalised rows and hands the sums over. @pre is_complete()
  [[nodiscard]] layer_result take_result();

 private:
  void make_sums();
  void combine(const call& answered, std::uint32_t attempt, const partial_rows& output);
  [[nodiscard]] double weight_left(std::uint32_t row) const;
};

}  // namespace troupe::router
