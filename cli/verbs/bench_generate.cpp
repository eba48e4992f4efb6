// troupe bench generate.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/generate_bench.hpp"
#include "cli/http_client.hpp"
#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/terminal.hpp"
#include "cli/token_sources.hpp"

namespace troupe::cli {
namespace {

constexpr std::chrono::milliseconds models_timeout{10'000};

double rounded(double value) { return std::round(value * 1000) / 1000; }

void add_distribution(json& to, const std::string& name, const distribution& ms) {
  to[name + "_p50_ms"] = rounded(ms.p50);
  to[name + "_p95_ms"] = rounded(ms.p95);
  to[name + "_p99_ms"] = rounded(ms.p99);
}

json document_of(const generate_bench_row& row) {
  json document = {{"concurrency", row.concurrency},
                   {"requests", row.requests},
                   {"failed", row.failed},
                   {"output_tokens", row.output_tokens},
                   {"seconds", rounded(row.seconds)}};
  add_distribution(document, "first_token", row.first_token);
  add_distribution(document, "between_tokens", row.between_tokens);
  add_distribution(document, "request", row.whole);
  document["output_tokens_per_second"] = rounded(row.output_tokens_per_second);
  document["requests_per_second"] = rounded(row.requests_per_second);
  if (row.failed > 0) document["first_error"] = row.first_error;
  return document;
}

view table_of_rows() {
  return {.items = "items",
          .columns = {{"STREAMS", "concurrency"},
                      {"REQUESTS", "requests"},
                      {"FAILED", "failed"},
                      {"TOKENS/S", "output_tokens_per_second"},
                      {"FIRST TOKEN p50 ms", "first_token_p50_ms"},
                      {"p95", "first_token_p95_ms"},
                      {"p99", "first_token_p99_ms"},
                      {"BETWEEN p50 ms", "between_tokens_p50_ms"},
                      {"p95", "between_tokens_p95_ms"},
                      {"p99", "between_tokens_p99_ms"},
                      {"WHOLE p50 ms", "request_p50_ms"},
                      {"p99", "request_p99_ms", cell::text, true}},
          .name = "{concurrency}"};
}

// Token ids that every model has, where its folder does not say how many there are.
std::uint32_t vocabulary_of(const std::filesystem::path& model) {
  constexpr std::uint32_t at_least = 64;
  std::ifstream file(model / "config.json");
  const auto config = nlohmann::json::parse(file, nullptr, false);
  if (!config.is_object()) return at_least;
  const auto size = config.find("vocab_size");
  return size != config.end() && size->is_number_unsigned() ? std::max(size->get<std::uint32_t>(), 1U) : at_least;
}

result<std::string> served_model(const std::string& url) {
  const auto answer = http_get(url + "/v1/models", models_timeout);
  if (!answer) return fail(answer.error());
  const auto document = nlohmann::json::parse(answer->body, nullptr, false);
  if (answer->status != 200 || !document.is_object() || !document.contains("data") || document["data"].empty()) {
    return fail(errc::unavailable, fmt::format("{}/v1/models names no model; does this cluster serve text?", url));
  }
  return document["data"][0].value("id", "");
}

result<token_source_maker> make_sources(const session& s, const cluster_context& context,
                                        const generate_bench_options& options) {
  if (!options.is_http) {
    const auto folder = s.data_dir();
    if (!folder) return fail(folder.error());
    return token_source_maker([folder = *folder] { return make_client_source(folder); });
  }
  if (context.routers.empty() || context.routers.front().http.empty()) {
    return fail(errc::unavailable, "this cluster has no HTTP server; start it with --http, or leave --http out here");
  }
  const auto url = context.routers.front().http;
  auto model = served_model(url);
  if (!model) return fail(model.error());
  return token_source_maker([url, model = *model] { return make_http_source(url, model); });
}

result<exit_code> bench_generate(const session& s, const generate_bench_options& options) {
  install_interrupt_handler();
  const auto context = s.context();
  if (!context) return fail(context.error());
  const auto sources = make_sources(s, *context, options);
  if (!sources) return fail(sources.error());
  result<std::vector<generate_bench_row>> rows;
  {
    progress shown(std::cerr, "requests", stderr_is_terminal(), bench_clock::now());
    rows = run_generate_bench(options, vocabulary_of(context->model), *sources,
                              [&](auto done, auto all) { shown.update(done, all, bench_clock::now()); });
  }
  if (!rows) return fail(rows.error());
  json items = json::array();
  std::uint32_t failed = 0;
  for (const auto& row : *rows) {
    items.push_back(document_of(row));
    failed += row.failed;
    if (row.failed > 0) print_note(fmt::format("{} requests failed; the first: {}", row.failed, row.first_error));
  }
  s.print({{"door", options.is_http ? "http" : "zeromq"},
           {"prompt_tokens", options.prompt_tokens},
           {"output_tokens", options.output_tokens},
           {"items", std::move(items)}},
          table_of_rows());
  return failed == 0 ? exit_code::ok : exit_code::partly;
}

}  // namespace

void add_generate_bench_verb(verb_registry& verbs, CLI::App& bench) {
  auto options = std::make_shared<generate_bench_options>();
  auto& verb = verbs.verb(bench, "generate",
                          "Random prompts through the running cluster: time to the first token, between tokens, tokens "
                          "per second.",
                          "  troupe bench generate\n"
                          "  troupe bench generate --concurrency 1,8,32 --prompt-tokens 128 --output-tokens 64 --http\n"
                          "  troupe bench generate --concurrency 16 --requests 200 -o json",
                          [options](const session& s) { return bench_generate(s, *options); });
  verb.add_option("--concurrency", options->concurrency, "answers at a time; several: one after another [1,8,32]")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  verb.add_option("--prompt-tokens", options->prompt_tokens, "of each prompt [128]")->check(CLI::Range(1, 1'000'000));
  verb.add_option("--output-tokens", options->output_tokens, "of each answer [64]")->check(CLI::Range(1, 1'000'000));
  verb.add_option("--requests", options->requests, "per concurrency [four times as many, at least 8]")
      ->check(CLI::Range(1, 1'000'000));
  verb.add_option("--seed", options->seed, "of the prompts [20]");
  verb.add_flag("--http", options->is_http, "through the HTTP server instead of ZeroMQ");
}

}  // namespace troupe::cli
