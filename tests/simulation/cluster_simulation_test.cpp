// Thousands of histories of a simulated cluster: faults for a while, then healing, then rest.
// TROUPE_SEEDS=n widens the search, TROUPE_SEED=s runs one seed, TROUPE_SIM_TRACE=1 prints its history.
#include <cstdlib>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/simulation/simulated_cluster.hpp"

namespace troupe::simulation {
namespace {

using namespace std::chrono_literals;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

cluster_shape random_shape(std::mt19937_64& random) {
  auto pick = [&](std::uint32_t low, std::uint32_t high) {
    return low + static_cast<std::uint32_t>(random() % (high - low + 1));
  };
  cluster_shape shape;
  shape.layers = pick(1, 3);
  shape.experts_per_layer = pick(1, 5);
  shape.routers = pick(1, 2);
  shape.slots.clear();
  auto nodes = pick(2, 5);
  shape.replication = pick(1, 3);
  auto needed = shape.layers * shape.experts_per_layer * std::min(shape.replication, nodes);
  shape.tight = pick(0, 9) == 0;  // sometimes there is not enough room
  for (std::uint32_t n = 0; n < nodes; ++n) {
    shape.slots.push_back(pick(1, 2) * (needed / nodes + 1) / (shape.tight ? 2 : 1) + 1);
    if (nodes == 4) shape.zones.push_back(n < 2 ? "left" : "right");
  }
  return shape;
}

fault_options random_faults(std::mt19937_64& random) {
  auto some = [&](double most) { return random() % 2 == 0 ? 0.0 : most * static_cast<double>(random() % 1000) / 1000; };
  auto every = [&] { return random() % 2 == 0 ? 0ms : milliseconds(2000 + random() % 8000); };
  fault_options faults;
  faults.loss = some(0.3);
  faults.duplicate = some(0.2);
  faults.delay_max = random() % 2 == 0 ? 5ms : milliseconds(10 + random() % 400);
  faults.reorder = random() % 2 == 0;
  faults.load_failure = some(0.2);
  faults.wrong_digest = 0;  // its own test: the first digest seen is the one that counts
  faults.store_failure = some(0.1);
  faults.node_crash_every = every();
  faults.coordinator_crash_every = every();
  faults.partition_every = every();
  faults.freeze_every = every();
  faults.command_every = every();
  return faults;
}

std::string rest(simulated_cluster& cluster, milliseconds bound) {
  cluster.heal();
  cluster.run(32s, {});
  std::string open = cluster.unsettled();
  for (auto waited = 32s; !open.empty() && waited < bound && cluster.violation().empty(); waited += 1s) {
    cluster.run(1s, {});
    open = cluster.unsettled();
  }
  if (!open.empty() || !cluster.violation().empty()) return open;
  auto epoch = cluster.newest_epoch();
  cluster.run(3s, {});
  return cluster.newest_epoch() == epoch ? "" : "the placement changes without a reason";
}

void run_seed(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto shape = random_shape(random);
  auto faults = random_faults(random);
  simulated_cluster cluster(shape, random());
  cluster.run(12s, faults);
  auto open = cluster.violation().empty() ? rest(cluster, 150s) : "";
  if (cluster.violation().empty() && open.empty()) return;
  if (std::getenv("TROUPE_SIM_TRACE") != nullptr) fmt::print("{}", cluster.history());
  ADD_FAILURE() << "TROUPE_SEED=" << seed << ": " << cluster.violation() << open << "\n  layers " << shape.layers
                << " experts " << shape.experts_per_layer << " nodes " << shape.slots.size() << " replication "
                << shape.replication;
}

TEST(cluster_simulation, invariants_hold_and_it_converges_under_every_seed) {
  if (std::getenv("TROUPE_SEED") != nullptr) return run_seed(number_from("TROUPE_SEED", 1));
  auto seeds = number_from("TROUPE_SEEDS", 1000);
  for (std::uint64_t seed = 1; seed <= seeds && !HasFailure(); ++seed) run_seed(seed);
}

TEST(cluster_simulation, a_quiet_cluster_reaches_rest_soon) {
  simulated_cluster cluster({}, 1);
  cluster.run(3s, {});
  EXPECT_EQ(cluster.unsettled(), "");
  EXPECT_EQ(cluster.violation(), "");
}

}  // namespace
}  // namespace troupe::simulation
