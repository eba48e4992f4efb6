#include "cli/generate_bench.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include "cli/interrupt.hpp"

namespace troupe::cli {
namespace {

distribution distribution_of(std::vector<double> ms) {
  if (ms.empty()) return {};
  std::ranges::sort(ms);
  const auto at = [&](double q) { return ms[static_cast<std::size_t>(q * static_cast<double>(ms.size() - 1) + 0.5)]; };
  return {at(0.5), at(0.95), at(0.99)};
}

double ms_between(bench_clock::time_point from, bench_clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

std::uint32_t requests_for(const generate_bench_options& options, std::uint32_t concurrency) {
  return options.requests != 0 ? options.requests : std::max(8U, 4 * concurrency);
}

// Every request has its own prompt, so that nothing is found in the prefix cache; the same ones in every run.
std::vector<std::uint32_t> make_prompt(const generate_bench_options& options, std::uint32_t vocabulary,
                                       std::uint32_t concurrency, std::uint32_t number) {
  std::seed_seq seeds{options.seed, std::uint64_t{concurrency}, std::uint64_t{number}};
  std::mt19937_64 random(seeds);
  std::vector<std::uint32_t> tokens(options.prompt_tokens);
  for (auto& token : tokens) token = static_cast<std::uint32_t>(random() % vocabulary);
  return tokens;
}

// Requests of one level that its threads share.
struct level {
  std::uint32_t concurrency{};
  std::uint32_t all{};
  std::atomic<std::uint32_t> next{};
  std::mutex mutex;
  // protected by mutex
  std::vector<request_times> answers;
  std::uint32_t failed{};
  std::string first_error;
};

void work(level& shared, token_source& source, const generate_bench_options& options, std::uint32_t vocabulary,
          const std::function<void()>& on_done) {
  while (interrupt_count() == 0) {
    const auto number = shared.next.fetch_add(1);
    if (number >= shared.all) return;
    const auto prompt = make_prompt(options, vocabulary, shared.concurrency, number);
    request_times times{bench_clock::now(), {}};
    const auto asked = source.ask(prompt, options.output_tokens, [&](std::uint32_t count) {
      times.tokens.insert(times.tokens.end(), count, bench_clock::now());
    });
    const std::lock_guard lock(shared.mutex);
    if (asked) {
      shared.answers.push_back(std::move(times));
    } else if (++shared.failed == 1) {
      shared.first_error = asked.error().message;
    }
    on_done();
  }
}

}  // namespace

generate_bench_row summarise(std::uint32_t concurrency, std::span<const request_times> answers,
                             bench_clock::duration lasted) {
  generate_bench_row row{.concurrency = concurrency, .requests = static_cast<std::uint32_t>(answers.size())};
  row.seconds = std::chrono::duration<double>(lasted).count();
  std::vector<double> first, between, whole;
  for (const auto& [begun, tokens] : answers) {
    row.output_tokens += tokens.size();
    if (tokens.empty()) continue;
    first.push_back(ms_between(begun, tokens.front()));
    whole.push_back(ms_between(begun, tokens.back()));
    for (std::size_t i = 1; i < tokens.size(); ++i) between.push_back(ms_between(tokens[i - 1], tokens[i]));
  }
  row.first_token = distribution_of(std::move(first));
  row.between_tokens = distribution_of(std::move(between));
  row.whole = distribution_of(std::move(whole));
  if (row.seconds > 0) {
    row.output_tokens_per_second = static_cast<double>(row.output_tokens) / row.seconds;
    row.requests_per_second = row.requests / row.seconds;
  }
  return row;
}

namespace {

result<generate_bench_row> run_level(std::uint32_t concurrency, const generate_bench_options& options,
                                     std::uint32_t vocabulary, const token_source_maker& connect,
                                     const std::function<void()>& on_done) {
  level shared;
  shared.concurrency = concurrency;
  shared.all = requests_for(options, concurrency);
  std::vector<std::unique_ptr<token_source>> sources;
  for (std::uint32_t i = 0; i < std::min(concurrency, shared.all); ++i) {
    auto made = connect();
    if (!made) return fail(made.error());
    sources.push_back(std::move(*made));
  }
  const auto begun = bench_clock::now();
  std::vector<std::thread> threads;
  threads.reserve(sources.size());
  for (auto& source : sources) {
    threads.emplace_back([&] { work(shared, *source, options, vocabulary, on_done); });
  }
  for (auto& thread : threads) thread.join();
  if (interrupt_count() != 0) return fail(errc::cancelled, "interrupted; nothing was measured to the end");
  auto row = summarise(concurrency, shared.answers, bench_clock::now() - begun);
  row.failed = shared.failed;
  row.first_error = shared.first_error;
  return row;
}

}  // namespace

result<std::vector<generate_bench_row>> run_generate_bench(
    const generate_bench_options& options, std::uint32_t vocabulary, const token_source_maker& connect,
    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  std::uint64_t all = 0;
  for (const auto concurrency : options.concurrency) all += requests_for(options, concurrency);
  std::uint64_t done = 0;  // threads tell one at a time, under their level's mutex
  std::vector<generate_bench_row> rows;
  for (const auto concurrency : options.concurrency) {
    auto row = run_level(concurrency, options, vocabulary, connect, [&] { progress(++done, all); });
    if (!row) return fail(row.error());
    rows.push_back(std::move(*row));
  }
  return rows;
}

}  // namespace troupe::cli
