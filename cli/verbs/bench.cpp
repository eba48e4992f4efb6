// troupe bench layer, and the noun.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/layer/echo.hpp"
#include "cli/application.hpp"
#include "cli/layer_bench.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

double rounded(double value) { return std::round(value * 1000) / 1000; }

json row_document(const layer_bench_row& row, const layer_bench_report& report) {
  auto rows_per_second = [&](double ms) { return rounded(row.rows / ms * 1e3); };
  json document = {
      {"rows", row.rows},
      {"calls", row.calls},
      {"in_process_p50_ms", rounded(row.in_process.p50_ms)},
      {"in_process_p99_ms", rounded(row.in_process.p99_ms)},
      {"in_process_rows_per_second", rows_per_second(row.in_process.p50_ms)},
      {"cluster_p50_ms", rounded(row.cluster.p50_ms)},
      {"cluster_p99_ms", rounded(row.cluster.p99_ms)},
      {"cluster_rows_per_second", rows_per_second(row.cluster.p50_ms)},
      {"cluster_to_in_process_ratio", rounded(row.in_process.p50_ms / row.cluster.p50_ms)},
      {"added_ms", rounded(row.cluster.p50_ms - row.in_process.p50_ms)},
      {"echo_p50_ms", rounded(row.echo.p50_ms)},
      {"echo_p99_ms", rounded(row.echo.p99_ms)},
      {"messages_per_layer", rounded(row.messages_per_layer)},
      {"bytes_out_per_layer", row.bytes_out_per_layer},
      {"bytes_in_per_layer", row.bytes_in_per_layer},
      {"weights_read_gbps", rounded(row.read_gbps)},
      {"share_of_read_bandwidth", rounded(row.read_gbps / report.memory_read_gbps)},
  };
  if (row.cluster_tcp) {
    document["curve_p50_ms"] = rounded(row.cluster_tcp->p50_ms);
    document["curve_p99_ms"] = rounded(row.cluster_tcp->p99_ms);
    document["curve_rows_per_second"] = rows_per_second(row.cluster_tcp->p50_ms);
    document["curve_cost_ms"] = rounded(row.cluster_tcp->p50_ms - row.cluster.p50_ms);
  }
  return document;
}

view table_of_rows() {
  return {.items = "items",
          .columns = {{"ROWS", "rows"},
                      {"CALLS", "calls"},
                      {"ONE PROCESS p50 ms", "in_process_p50_ms"},
                      {"p99", "in_process_p99_ms"},
                      {"CLUSTER p50 ms", "cluster_p50_ms"},
                      {"p99", "cluster_p99_ms"},
                      {"ROWS/S", "cluster_rows_per_second"},
                      {"RATIO", "cluster_to_in_process_ratio"},
                      {"ADDED ms", "added_ms"},
                      {"ECHO ms", "echo_p50_ms"},
                      {"CURVE p50 ms", "curve_p50_ms"},
                      {"CURVE COST ms", "curve_cost_ms"},
                      {"MESSAGES", "messages_per_layer"},
                      {"OUT", "bytes_out_per_layer", cell::bytes},
                      {"IN", "bytes_in_per_layer", cell::bytes},
                      {"OF READ BANDWIDTH", "share_of_read_bandwidth", cell::share}},
          .name = "{rows}"};
}

result<exit_code> bench_layer(const session& s, const layer_bench_options& options) {
  auto report = run_layer_bench(std::filesystem::read_symlink("/proc/self/exe"), options,
                                [](const std::string& text) { print_note(text); });
  if (!report) return fail(report.error());
  json items = json::array();
  for (const auto& row : report->rows) items.push_back(row_document(row, *report));
  s.print({{"hidden", options.layer.hidden},
           {"width", options.layer.width},
           {"experts", options.layer.experts},
           {"top_k", options.layer.top_k},
           {"dtype", "bf16"},
           {"expert_nodes", options.expert_nodes},
           {"threads", options.threads},
           {"node_threads", options.node_threads},
           {"memory_read_gbps", rounded(report->memory_read_gbps)},
           {"items", items}},
          table_of_rows());
  return exit_code::ok;
}

}  // namespace

void add_bench_verbs(verb_registry& verbs) {
  auto options = std::make_shared<layer_bench_options>();
  auto& noun = verbs.noun("bench", "Measure on this machine.");
  auto& layer = verbs.verb(noun, "layer",
                           "A random MoE layer through a cluster, next to the same kernels in one process and to a "
                           "bare ZeroMQ echo of the same bytes.",
                           "  troupe bench layer\n  troupe bench layer --rows 1,64 --calls 50 -o json",
                           [options](const session& s) { return bench_layer(s, *options); });
  layer.add_option("--hidden", options->layer.hidden, "length of a row [2048]")->check(CLI::Range(16, 16384));
  layer.add_option("--width", options->layer.width, "of one expert [1024]")->check(CLI::Range(16, 32768));
  layer.add_option("--experts", options->layer.experts, "of the layer [64]")->check(CLI::Range(1, 512));
  layer.add_option("--top-k", options->layer.top_k, "experts per row [8]")->check(CLI::Range(1, 64));
  layer.add_option("--rows", options->rows, "row counts to measure [1,8,64,512]")
      ->delimiter(',')
      ->check(CLI::Range(1, 8192));
  layer.add_option("--expert-nodes", options->expert_nodes, "processes that hold the experts [3]")
      ->check(CLI::Range(1, 64));
  layer.add_option("--threads", options->threads, "of the in-process run [2]")->check(CLI::Range(1, 256));
  layer.add_option("--node-threads", options->node_threads, "of each expert node [2]")->check(CLI::Range(1, 256));
  layer.add_option("--calls", options->calls, "per row count and side [60 to 9]")->check(CLI::Range(1, 100000));
  layer.add_flag("!--no-curve", options->encrypted, "leave out the cluster over TCP with encryption");

  add_generate_bench_verb(verbs, noun);

  auto address = std::make_shared<std::string>();
  auto& peer = verbs.verb(noun, "echo-peer", "The far end of the bare transport that bench layer starts.", "",
                          [address](const session&) -> result<exit_code> {
                            return bench::run_echo_peer(*address) == 0 ? exit_code::ok : exit_code::failed;
                          });
  peer.group("");
  peer.add_option("address", *address)->required();
}

}  // namespace troupe::cli
