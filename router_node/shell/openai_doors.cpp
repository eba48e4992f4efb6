#include "router_node/shell/openai_doors.hpp"

#include <atomic>
#include <ctime>
#include <random>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include "common/daemon/log.hpp"
#include "router_node/shell/client_shares.hpp"
#include "router_node/shell/work_queue.hpp"

namespace troupe::router {
namespace {

std::int64_t local_seconds(std::time_t now) {
  std::tm parts{};
  ::localtime_r(&now, &parts);
  return static_cast<std::int64_t>(now) + parts.tm_gmtoff;
}

using reader = tl::expected<text_request, request_refusal> (*)(const served_model&, std::string_view,
                                                               const request_arrival&);
using converter = tl::expected<std::string, request_refusal> (*)(const served_model&, std::string_view);

}  // namespace

class openai_doors::impl {
 public:
  explicit impl(openai_settings settings)
      : settings_(std::move(settings)), shares_(settings_.answers_per_key_max), prefix_(std::random_device{}()) {
    settings_.model.limits = settings_.gateway->limits();
  }

  http::handler generation(reader read, const char* id_prefix) {
    return [this, read, id_prefix](http::request asked, const std::shared_ptr<http::exchange>& exchange) {
      // Its time runs from here on, whatever waits before it.
      const auto arrived = std::chrono::steady_clock::now();
      in_turn(exchange, [this, read, id_prefix, arrived, asked = std::move(asked), exchange] {
        generate(read, id_prefix, arrived, asked, exchange);
      });
    };
  }

  http::handler conversion(converter convert) {
    return [this, convert](http::request asked, const std::shared_ptr<http::exchange>& exchange) {
      in_turn(exchange, [this, convert, body = std::move(asked.body), exchange] {
        auto made = convert(settings_.model, body);
        exchange->reply(made ? http::response{.body = std::move(*made)} : to_response(made.error()));
      });
    };
  }

 private:
  void in_turn(const std::shared_ptr<http::exchange>& exchange, std::function<void()> work) {
    // The HTTP server bounds the bytes of bodies.
    const auto waits = worker_.put(0, std::move(work));
    if (!waits) refuse(exchange, {waits.error(), {}, {}});
  }

  void refuse(const std::shared_ptr<http::exchange>& exchange, const request_refusal& why) {
    exchange->reply(to_response(why));
    if (settings_.on_outcome) settings_.on_outcome(text_outcome::rejected);
  }

  // The worker's thread.
  void generate(reader read, const char* id_prefix, time_point arrived, const http::request& asked,
                const std::shared_ptr<http::exchange>& exchange) {
    const auto now = std::time(nullptr);
    const request_arrival arrival{arrived, local_seconds(now), random_(), asked.client};
    auto request = read(settings_.model, asked.body, arrival);
    if (!request) return refuse(exchange, request.error());
    log(asked, *request);
    const auto answers = static_cast<std::uint32_t>(request->prompts.size()) * request->choices;
    auto share = shares_.take(asked.client, answers);
    if (!share) {
      request_refusal why;
      why.reason.code = errc::overloaded;
      why.reason.message = fmt::format("{} may have {} answers in progress; wait for some of them, then retry",
                                       asked.client, settings_.answers_per_key_max);
      why.code = "rate_limit_exceeded";
      return refuse(exchange, why);
    }
    auto id = fmt::format("{}-{:08x}{:08x}", id_prefix, prefix_, ++numbered_);
    const answer_environment environment{&settings_.model, settings_.gateway, settings_.ping_interval,
                                         settings_.on_outcome};
    std::make_shared<text_answer>(environment, std::move(*request), exchange, std::move(id), now, std::move(share))
        ->start();
  }

  // Sizes and names of fields only: what a prompt says is nobody's business (faults.md H10).
  void log(const http::request& asked, const text_request& request) {
    spdlog::debug("{} {}: {} bytes, {} prompts, n={}", asked.id, asked.path, asked.body.size(), request.prompts.size(),
                  request.choices);
    if (request.ignored.empty()) return;
    if (const auto dropped = unknown_fields_.admit()) {
      spdlog::warn("{} {}: unknown fields are ignored: {}{}", asked.id, asked.path, fmt::join(request.ignored, ", "),
                   daemon::dropped_note(*dropped));
    }
  }

  openai_settings settings_;  // constant after construction
  client_shares shares_;
  const std::uint32_t prefix_;
  std::mt19937_64 random_{std::random_device{}()};        // seeds; the worker's thread
  std::uint32_t numbered_{};                              // the worker's thread
  daemon::log_limit unknown_fields_;                      // the worker's thread
  work_queue worker_{limits::text_requests_waiting_max};  // last: its thread uses the rest
};

openai_doors::openai_doors(openai_settings settings) : impl_(std::make_unique<impl>(std::move(settings))) {}

openai_doors::~openai_doors() = default;

std::vector<http::route> openai_doors::routes() {
  const auto bytes = limits::http_json_body_bytes_max;
  return {{"POST", "/v1/completions", bytes, impl_->generation(read_completion, "cmpl")},
          {"POST", "/v1/chat/completions", bytes, impl_->generation(read_chat, "chatcmpl")},
          {"POST", "/tokenize", bytes, impl_->conversion(answer_tokenize)},
          {"POST", "/detokenize", bytes, impl_->conversion(answer_detokenize)}};
}

}  // namespace troupe::router
