// Streams an answer of the model that the cluster of this machine serves, token by token.
// Usage: troupe-stream-text PROMPT [DATA_DIR]
#include <cstdio>
#include <cstdlib>
#include <troupe/client.hpp>

namespace client = troupe::client;

int main(int argc, char** argv) try {
  if (argc < 2) {
    std::fprintf(stderr, "usage: troupe-stream-text PROMPT [DATA_DIR]\n");
    return 2;
  }
  client::connect_options where;
  if (argc > 2) where.data_dir = argv[2];
  auto cluster = client::cluster::connect(where);
  client::generate_options options;
  options.max_tokens = 64;
  options.temperature = 0.0F;
  const auto summary = cluster.generate(argv[1], options, [](const client::token& token) {
    std::fputs(token.text.c_str(), stdout);
    return std::fflush(stdout) == 0;
  });
  std::printf("\n[%u tokens of prompt, %u of answer, %u of them approximate]\n", summary.prompt_tokens,
              summary.answer_tokens, summary.approximate_tokens);
  return EXIT_SUCCESS;
} catch (const client::error& problem) {
  std::fprintf(stderr, "error: %s\n", problem.what());
  return problem.retryable() ? 3 : EXIT_FAILURE;
} catch (const std::exception& problem) {
  std::fprintf(stderr, "error: %s\n", problem.what());
  return EXIT_FAILURE;
}
