#include "cli/layer_bench.hpp"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <sstream>
#include <thread>

#include "bench/layer/echo.hpp"
#include "bench/layer/in_process.hpp"
#include "cli/http_client.hpp"
#include "common/tensor.hpp"
#include "troupe/client.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;
using clock = std::chrono::steady_clock;

constexpr std::chrono::seconds metrics_timeout{10};
// A router renews its byte counters every second.
constexpr std::chrono::milliseconds counters_settle{1500};
constexpr std::uint64_t seed = 20;
// bf16 sums in another order may differ by this much of the peak; more means that somebody computes something else.
constexpr float agreement = 2e-2F;

// A folder that goes away with its owner.
class temporary_folder {
 public:
  temporary_folder() {
    std::string pattern = (fs::temp_directory_path() / "troupe-bench-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~temporary_folder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

struct traffic {
  double messages{};
  double bytes_out{};
  double bytes_in{};
};

// Sums of the router's own counters, once all that was done before is in them.
result<traffic> read_traffic(const std::string& url) {
  std::this_thread::sleep_for(counters_settle);
  auto answer = http_get(url + "/metrics", metrics_timeout);
  if (!answer) return fail(answer.error());
  traffic seen;
  std::istringstream lines{answer->body};
  for (std::string line; std::getline(lines, line);) {
    auto space = line.rfind(' ');
    if (line.empty() || line.front() == '#' || space == std::string::npos) continue;
    const double value = std::strtod(line.c_str() + space, nullptr);
    if (line.starts_with("moe_dispatch_messages_total")) seen.messages += value;
    if (!line.starts_with("moe_dispatch_bytes_total")) continue;
    (line.find("\"out\"") != std::string::npos ? seen.bytes_out : seen.bytes_in) += value;
  }
  return seen;
}

// A cluster that `troupe up` started on the random layer, and a client of it.
class bench_cluster {
 public:
  static result<std::unique_ptr<bench_cluster>> start(const fs::path& program, const fs::path& model,
                                                      const fs::path& data_dir, const layer_bench_options& options,
                                                      const std::string& transport) {
    auto made = std::unique_ptr<bench_cluster>{new bench_cluster{program, data_dir}};
    auto command = fmt::format(
        "'{}' up --model '{}' --data-dir '{}' --expert-nodes {} --dtype bf16 --transport {} --threads {} --detach -o "
        "json",
        program.string(), model.string(), data_dir.string(), options.expert_nodes, transport, options.node_threads);
    std::FILE* pipe = ::popen(command.c_str(), "r");
    if (pipe == nullptr) return fail(errc::internal, "cannot start troupe up");
    std::string output;
    std::array<char, 4096> buffer{};
    while (auto got = std::fread(buffer.data(), 1, buffer.size(), pipe)) output.append(buffer.data(), got);
    if (::pclose(pipe) != 0) return fail(errc::internal, fmt::format("troupe up --transport {} failed", transport));
    made->http_ = nlohmann::json::parse(output).at("http").get<std::string>();
    client::connect_options where;
    where.data_dir = data_dir;
    made->client_.emplace(client::cluster::connect(where));
    return made;
  }

  ~bench_cluster() {
    client_.reset();
    auto command =
        fmt::format("'{}' down --yes --data-dir '{}' >/dev/null 2>&1", program_.string(), data_dir_.string());
    [[maybe_unused]] const int status = std::system(command.c_str());
  }
  bench_cluster(const bench_cluster&) = delete;
  bench_cluster& operator=(const bench_cluster&) = delete;

  client::layer_result run(std::span<const std::uint16_t> rows, std::uint32_t hidden) {
    return client_->layer(0, {client::dtype::bf16, rows.size() / hidden, hidden, rows.data()});
  }
  [[nodiscard]] const std::string& http() const { return http_; }

 private:
  bench_cluster(fs::path program, fs::path data_dir) : program_{std::move(program)}, data_dir_{std::move(data_dir)} {}

  fs::path program_;
  fs::path data_dir_;
  std::string http_;
  std::optional<client::cluster> client_;
};

result<void> check_agreement(std::span<const std::uint16_t> ours, std::span<const std::uint16_t> theirs) {
  float peak = 0;
  float difference = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    peak = std::max(peak, std::abs(bf16_to_f32(ours[i])));
    difference = std::max(difference, std::abs(bf16_to_f32(ours[i]) - bf16_to_f32(theirs[i])));
  }
  if (difference <= agreement * peak) return {};
  return fail(errc::internal, fmt::format("cluster and in-process results differ by {} of a peak of {}: a bug, not a "
                                          "measurement",
                                          difference, peak));
}

latency summarise(std::vector<double> ms) {
  std::ranges::sort(ms);
  auto at = [&](double q) { return ms[static_cast<std::size_t>(q * static_cast<double>(ms.size() - 1) + 0.5)]; };
  return {at(0.5), at(0.99)};
}

template <class Call>
double timed_ms(Call&& call) {
  auto begin = clock::now();
  call();
  return std::chrono::duration<double, std::milli>(clock::now() - begin).count();
}

std::uint32_t calls_for(const layer_bench_options& options, std::uint32_t rows) {
  if (options.calls != 0) return options.calls;
  return rows <= 8 ? 60 : rows <= 64 ? 30 : 9;
}

struct sides {
  bench::in_process_layer in_process;
  std::unique_ptr<bench_cluster> cluster;
  std::unique_ptr<bench_cluster> cluster_tcp;  // nullptr: not measured
  bench::echo_peers echo;
};

// The first calls of a size: caches, pages and primitives are made, the answers are compared, the traffic is counted.
result<traffic> warm_up(sides& on, std::span<const std::uint16_t> rows, std::uint32_t hidden) {
  constexpr int calls = 3;
  auto before = read_traffic(on.cluster->http());
  if (!before) return fail(before.error());
  for (int i = 0; i < calls; ++i) {
    auto expected = on.in_process.run(rows);
    if (!expected) return fail(expected.error());
    auto answer = on.cluster->run(rows, hidden);
    if (auto same = check_agreement(answer.output_as<std::uint16_t>(), *expected); !same) return fail(same.error());
    if (on.cluster_tcp) on.cluster_tcp->run(rows, hidden);
  }
  auto after = read_traffic(on.cluster->http());
  if (!after) return fail(after.error());
  return traffic{(after->messages - before->messages) / calls, (after->bytes_out - before->bytes_out) / calls,
                 (after->bytes_in - before->bytes_in) / calls};
}

result<layer_bench_row> measure(sides& on, const layer_bench_options& options, std::uint32_t count) {
  const auto hidden = options.layer.hidden;
  const auto rows = bench::random_rows(count, hidden, seed + count);
  auto per_layer = warm_up(on, rows, hidden);
  if (!per_layer) return fail(per_layer.error());
  const auto peers = static_cast<std::size_t>(std::lround(per_layer->messages));
  const auto request = static_cast<std::size_t>(per_layer->bytes_out / per_layer->messages);
  const auto reply = static_cast<std::size_t>(per_layer->bytes_in / per_layer->messages);
  std::vector<double> in_process, cluster, tcp, echo;
  result<void> outcome;
  const auto calls = calls_for(options, count);
  for (std::uint32_t i = 0; i < calls && outcome; ++i) {
    in_process.push_back(timed_ms([&] { (void)on.in_process.run(rows); }));
    cluster.push_back(timed_ms([&] { (void)on.cluster->run(rows, hidden); }));
    if (on.cluster_tcp) tcp.push_back(timed_ms([&] { (void)on.cluster_tcp->run(rows, hidden); }));
    echo.push_back(timed_ms([&] { outcome = on.echo.scatter_gather(peers, request, reply); }));
  }
  if (!outcome) return fail(outcome.error());
  layer_bench_row row{count, calls, summarise(in_process), summarise(cluster), summarise(echo), std::nullopt};
  if (on.cluster_tcp) row.cluster_tcp = summarise(tcp);
  row.messages_per_layer = per_layer->messages;
  row.bytes_out_per_layer = per_layer->bytes_out;
  row.bytes_in_per_layer = per_layer->bytes_in;
  const auto read = static_cast<double>(on.in_process.experts_read() * on.in_process.expert_bytes());
  row.read_gbps = read / row.in_process.p50_ms / 1e6;
  return row;
}

result<sides> start_sides(const fs::path& program, const fs::path& folder, const layer_bench_options& options) {
  const fs::path model = folder / "model";
  auto in_process = bench::in_process_layer::load(model, options.threads);
  if (!in_process) return fail(in_process.error());
  auto cluster = bench_cluster::start(program, model, folder / "ipc", options, "ipc");
  if (!cluster) return fail(cluster.error());
  std::unique_ptr<bench_cluster> tcp;
  if (options.encrypted) {
    auto started = bench_cluster::start(program, model, folder / "tcp", options, "tcp");
    if (!started) return fail(started.error());
    tcp = std::move(*started);
  }
  auto echo = bench::echo_peers::start(program, folder, options.expert_nodes);
  if (!echo) return fail(echo.error());
  return sides{std::move(*in_process), std::move(*cluster), std::move(tcp), std::move(*echo)};
}

}  // namespace

result<layer_bench_report> run_layer_bench(const fs::path& program, const layer_bench_options& options,
                                           const std::function<void(const std::string&)>& note) {
  temporary_folder folder;
  std::error_code failure;
  if (folder.path().empty() || !fs::create_directory(folder.path() / "model", failure)) {
    return fail(errc::no_space, fmt::format("cannot make a folder in {}; set TMPDIR to a place with room",
                                            fs::temp_directory_path().string()));
  }
  layer_bench_report report;
  report.memory_read_gbps = bench::read_bandwidth(options.threads);
  note("writing a random layer and loading it three times");
  if (auto written = bench::write_random_layer(folder.path() / "model", options.layer, seed); !written) {
    return fail(written.error());
  }
  try {
    auto on = start_sides(program, folder.path(), options);
    if (!on) return fail(on.error());
    for (auto count : options.rows) {
      note(fmt::format("measuring {} rows", count));
      auto row = measure(*on, options, count);
      if (!row) return fail(row.error());
      report.rows.push_back(*row);
    }
  } catch (const client::error& problem) {
    return fail(static_cast<errc>(problem.code()), problem.what());
  }
  return report;
}

}  // namespace troupe::cli
