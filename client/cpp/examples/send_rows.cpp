// Sends rows of pseudo-random hidden states through every MoE layer of the cluster that runs on this machine, and
// prints what came back. Usage: troupe-send-rows [DATA_DIR]
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <troupe/client.hpp>

namespace client = troupe::client;

namespace {

// What the example prints about one layer.
void send_rows(client::cluster& cluster, const std::string& layer, std::size_t width) {
  constexpr std::size_t rows = 8;
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> hidden(rows * width);
  for (auto& value : hidden) value = normal(generator);

  const auto begin = std::chrono::steady_clock::now();
  const auto result = cluster.layer(layer, {client::dtype::f32, rows, width, hidden.data()});
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;

  const auto ids = result.expert_ids();
  const std::set<std::int32_t> experts(ids.begin(), ids.end());
  std::printf("layer %-10s %zu rows x %zu: %zu experts in %.2f ms, output[0][0] = %g, epoch %llu\n", layer.c_str(),
              rows, width, experts.size(), took.count(), static_cast<double>(result.output_as<float>()[0]),
              static_cast<unsigned long long>(result.epoch()));
}

}  // namespace

int main(int argc, char** argv) try {
  client::connect_options options;
  if (argc > 1) options.data_dir = argv[1];
  auto cluster = client::cluster::connect(options);

  const auto model = nlohmann::json::parse(cluster.model());
  std::set<std::string> layers;
  const auto listed = nlohmann::json::parse(cluster.list_experts());
  for (const auto& expert : listed.at("items")) {
    const auto& layer = expert.at("layer");
    layers.insert(layer.is_string() ? layer.get<std::string>() : layer.dump());
  }
  for (const auto& layer : layers) send_rows(cluster, layer, model.at("hidden_size").get<std::size_t>());
  return EXIT_SUCCESS;
} catch (const client::error& problem) {
  std::fprintf(stderr, "error: %s\n", problem.what());
  return problem.retryable() ? 3 : EXIT_FAILURE;
} catch (const std::exception& problem) {
  std::fprintf(stderr, "error: %s\n", problem.what());
  return EXIT_FAILURE;
}
