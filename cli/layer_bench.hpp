// `troupe bench layer`: one random MoE layer through a cluster of this machine, next to the same kernels in this
// process and to the bare transport, call by call in turns, so that the ratios hold when the machine's speed drifts.
// One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/layer/random_layer.hpp"
#include "common/error.hpp"

namespace troupe::cli {

struct layer_bench_options {
  bench::layer_spec layer;
  std::vector<std::uint32_t> rows{1, 8, 64, 512};
  std::uint32_t expert_nodes{3};
  std::uint32_t threads{2};       // of the in-process run
  std::uint32_t node_threads{2};  // of each expert node; all of them share this machine's cores
  std::uint32_t calls{};          // per row count and side; 0: chosen by the row count
  bool encrypted{true};           // measure a cluster over TCP with CURVE too
};

struct latency {
  double p50_ms{};
  double p99_ms{};
};

struct layer_bench_row {
  std::uint32_t rows{};
  std::uint32_t calls{};
  latency in_process, cluster, echo;
  std::optional<latency> cluster_tcp;
  double messages_per_layer{};  // router to expert nodes, as the router counts them
  double bytes_out_per_layer{};
  double bytes_in_per_layer{};
  double read_gbps{};  // weights of the different experts read / in-process time
};

struct layer_bench_report {
  double memory_read_gbps{};
  std::vector<layer_bench_row> rows;
};

// `program`: the troupe binary, which starts the clusters and the echo peers. `note` tells a person what goes on.
[[nodiscard]] result<layer_bench_report> run_layer_bench(const std::filesystem::path& program,
                                                         const layer_bench_options& options,
                                                         const std::function<void(const std::string&)>& note);

}  // namespace troupe::cli
