// One request for text while it is being answered: hands its jobs to the engine and their events to the client.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/http/message.hpp"
#include "router_node/core/generation.hpp"
#include "router_node/shell/openai_format.hpp"

namespace troupe::router {

// How a request for text ended; for the counters.
enum class text_outcome : std::uint8_t { ok, error, aborted, rejected, expired };

// The answer to an error object's client: status, body, hints for retries.
[[nodiscard]] http::response to_response(const request_refusal& refusal);

struct answer_environment {
  const served_model* model{};
  generation_gateway* gateway{};
  std::chrono::milliseconds ping_interval{limits::http_ping_interval};
  std::function<void(text_outcome)> on_outcome{};
};

// Thread rule: start() once; events come on the engine's thread, the client's leaving on the server's.
class text_answer : public std::enable_shared_from_this<text_answer> {
 public:
  // What `environment` points to outlives the answer's last event. `share`: what counts against a limit; dropped when
  // the answer is over.
  text_answer(answer_environment environment, text_request request, std::shared_ptr<http::exchange> exchange,
              std::string id, std::int64_t created, std::shared_ptr<void> share);

  void start();

 private:
  bool hand_over(std::size_t choice, generation_request job);
  void on_event(std::size_t choice, generation_event event);
  void cancel();
  void cancel_jobs();
  // With mutex_ held:
  void take(text_choice& choice, prompt_logprobs event);
  void take(text_choice& choice, token_event event);
  void take(text_choice& choice, generation_end event);
  void fail(const error& reason);
  void send(std::string_view events);
  void complete();
  void end(text_outcome outcome);

  const answer_environment environment_;
  const text_request request_;
  const answer_format format_;
  const std::shared_ptr<http::exchange> exchange_;
  std::mutex mutex_;
  std::shared_ptr<http::stream> stream_;  // of a streamed answer
  std::shared_ptr<void> share_;
  std::vector<text_choice> choices_;
  std::vector<std::uint64_t> numbers_;  // of the jobs handed over and not cancelled
  std::size_t ended_{};
  bool over_{};  // nothing more is to be sent
};

}  // namespace troupe::router
