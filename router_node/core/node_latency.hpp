// Which expert hosts are slow: each one's calls against what calls of that size take elsewhere.
//
//              4 checks in a row above             12 in a row
//   normal ──────────────────────────────> slow ──────────────> quarantined
//     ^                                     │                        │
//     └──────── 4 checks in a row well ─────┴──── 8 good probes ─────┘
//
// *Normalised time* of a host: seconds that its calls took / seconds that call_cost expects for them, over the calls
// that ended in the last `node_pace_window`. A call under way that is overdue counts with the time it has waited so
// far, so that a host that never answers is noticed too. *Above*: more than 3 x the median of the other hosts, and at
// least `node_slow_excess_min` per call; *well*: less than 2 x. Sums and not quantiles, because a host that stops now
// and then answers most calls fast: its clients wait in few of them, but long.
//
// A slow host gets less work; a quarantined one none that somebody else can do. Both are asked for single experts now
// and then (probes), so that they can show that they have recovered.
//
// Pure and single-threaded: the time comes in. Hosts are named by their index in host_table.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "router_node/core/call_cost.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

class node_latency {
 public:
  struct change {
    host_index host{};
    node_pace from{};
    node_pace to{};
    std::string reason;  // for people, with the figures
  };

  void on_sent(host_index host, const call_id& id, call_size size, time_point now);
  // Also of calls that were given up meanwhile. Ids that are not under way at this host are ignored.
  void on_answer(host_index host, const call_id& id, time_point now);
  // The call says nothing about the host: refused, or never sent.
  void forget(host_index host, const call_id& id);
  // What was under way is lost; another run of the host begins as normal.
  void on_link(host_index host, std::optional<incarnation_number> incarnation);

  // The states as of the last check.
  [[nodiscard]] node_pace pace(host_index host) const;
  // Normalised time over that of the others; 1 while normal.
  [[nodiscard]] double slowness(host_index host) const;
  [[nodiscard]] std::size_t calls_under_way(host_index host) const;

  // How long 95 % of such calls take at most: the expected time x the p95 of normalised times (of the hosts that are
  // normal the median one's). nullopt: too little is known.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> usual_longest(call_size size) const;

  // Is the host due for a probe? One at a time.
  [[nodiscard]] bool wants_probe(host_index host, time_point now) const;
  void on_probe(host_index host, time_point now, std::mt19937_64& random);

  // To be called when it is due; between checks nothing changes.
  [[nodiscard]] time_point next_check() const { return next_check_; }
  std::vector<change> check(time_point now);

 private:
  struct call_under_way {
    time_point sent;
    call_size size;
  };
  struct sample {
    double taken{};     // seconds
    double expected{};  // seconds
  };
  // The calls that ended within a check interval, summed: however many there are, none of the window is forgotten.
  struct interval {
    time_point begin;
    double taken{};
    double expected{};
    std::uint32_t calls{};
  };
  struct node {
    node_pace pace{node_pace::normal};
    double slowness{1};
    std::uint32_t checks_above{};
    std::uint32_t checks_well{};
    std::map<call_id, call_under_way> under_way;
    std::deque<interval> intervals;  // of the window
    std::deque<sample> samples;      // the newest
    std::optional<incarnation_number> incarnation;
    time_point next_probe;
  };
  // The normalised time of one host and what it was made of.
  struct score {
    double taken{};
    double expected{};
    std::uint32_t calls{};
    double longest_wait{};  // of overdue calls
    [[nodiscard]] double ratio() const { return taken / expected; }
  };

  node& at(host_index host);
  static void keep(node& n, const sample& s, time_point ended);
  [[nodiscard]] const node* find(host_index host) const { return host < nodes_.size() ? &nodes_[host] : nullptr; }
  [[nodiscard]] score score_of(const node& n, time_point now) const;
  [[nodiscard]] static bool is_telling(const node& n, const score& s);
  void judge(host_index host, const score& own, double others, std::vector<change>& changes);
  void enter(host_index host, node_pace pace, const score& own, double others, std::vector<change>& changes);
  void refresh_p95();

  std::vector<node> nodes_;  // by host_index
  call_cost cost_;
  std::optional<double> p95_;  // normalised
  time_point next_check_{};
};

}  // namespace troupe::router
