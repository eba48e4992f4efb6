// The router's doors before a fake engine, for client_test.py: prints its URL, serves until its input ends.
//   openai_door_server TOKENIZER_FOLDER [API_KEY_FILE]
#include <cstdio>
#include <iostream>
#include <limits>
#include <map>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/http/api_keys.hpp"
#include "common/http/server.hpp"
#include "model/chat_template/chat_template.hpp"
#include "router_node/shell/openai_doors.hpp"
#include "tests/router_node/fake_generation.hpp"

namespace {

using namespace troupe;

struct outcome_counts {
  std::mutex mutex;
  std::map<std::string, std::uint64_t> by_name;
};

void count(outcome_counts& counts, router::text_outcome outcome) {
  static constexpr const char* names[] = {"ok", "error", "aborted", "rejected", "expired"};
  const std::lock_guard lock(counts.mutex);
  ++counts.by_name[names[static_cast<std::size_t>(outcome)]];
}

// GET /counts: what the fake engine and the doors counted.
http::route counts_route(const router::testing::fake_generation& engine, outcome_counts& counts) {
  return {"GET", "/counts", 0, [&](const http::request&, const std::shared_ptr<http::exchange>& exchange) {
            const auto seen = engine.counts();
            const std::lock_guard lock(counts.mutex);
            const nlohmann::json document{{"accepted", seen.accepted},
                                          {"cancelled", seen.cancelled},
                                          {"running", seen.running},
                                          {"outcomes", counts.by_name}};
            exchange->reply({.body = document.dump()});
          }};
}

int complain(const error& reason) {
  fmt::print(stderr, "error: {}\n", reason.message);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  auto tokenizer = model::tokenizer::open(argv[1]);
  if (!tokenizer) return complain(tokenizer.error());
  auto chat = model::chat_template::open(argv[1]);
  if (!chat) return complain(chat.error());
  outcome_counts counts;
  router::testing::fake_generation engine(tokenizer->get(), {(*tokenizer)->size(), 2048});
  router::openai_doors doors(
      {.model = {.name = "fake", .fingerprint = "fp", .tokenizer = tokenizer->get(), .chat_template = chat->get()},
       .gateway = &engine,
       .ping_interval = std::chrono::milliseconds(50),
       .on_outcome = [&counts](router::text_outcome o) { count(counts, o); }});
  auto routes = doors.routes();
  if (argc > 2) {
    auto keys = http::api_keys::open(argv[2]);
    if (!keys) return complain(keys.error());
    routes = http::guard(std::move(routes), std::make_shared<const http::api_keys>(std::move(*keys)));
  }
  routes.push_back(counts_route(engine, counts));
  auto server = http::server::start({}, std::move(routes));
  if (!server) return complain(server.error());
  fmt::print("{}\n", (*server)->url());
  std::fflush(stdout);
  std::cin.ignore(std::numeric_limits<std::streamsize>::max());
  (*server)->stop(std::chrono::milliseconds(0));
  return 0;
}
