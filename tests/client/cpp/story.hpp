// The answer that every fake router gives: token p of a stream is 100 + p, its text "p ". As in a real cluster it does
// not depend on who tells it, so that another router can go on with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tests/client/cpp/fake_router.hpp"

namespace troupe::client::testing {

struct story {
  std::uint32_t length{8};

  [[nodiscard]] std::string text() const {
    std::string whole;
    for (std::uint32_t p = 0; p < length; ++p) whole += std::to_string(p) + " ";
    return whole;
  }

  static void send(fake_router& router, const request& asked, const proto::GenerateEvent& event) {
    proto::RouterToClient envelope;
    *envelope.mutable_generate()->add_events() = event;
    envelope.mutable_generate()->mutable_events(0)->set_request_id(asked.envelope.generate().request_id());
    router.send(asked.peer, wire::outgoing_message(asked.kind), envelope);
  }

  static proto::GenerateEvent accepted(const proto::GenerateRequest& asked) {
    proto::GenerateEvent event;
    event.mutable_accepted()->set_prompt_tokens(3);
    event.mutable_accepted()->set_seed(asked.sampling().seed());
    event.mutable_accepted()->set_max_tokens(asked.max_tokens());
    return event;
  }

  static proto::GenerateEvent token(std::uint32_t position) {
    proto::GenerateEvent event;
    auto& one = *event.add_tokens();
    one.set_id(100 + position);
    one.set_position(position);
    one.set_text(std::to_string(position) + " ");
    one.set_logprob(-0.5F);
    return event;
  }

  [[nodiscard]] proto::GenerateEvent end() const {
    proto::GenerateEvent event;
    event.mutable_end()->set_reason(proto::FINISH_LENGTH);
    event.mutable_end()->set_prompt_tokens(3);
    event.mutable_end()->set_answer_tokens(length);
    return event;
  }

  // Accepts, and tells from where the client is up to `until`; without it to the end.
  void tell(fake_router& router, const request& asked, std::optional<std::uint32_t> until = std::nullopt) const {
    const auto& wanted = asked.envelope.generate();
    send(router, asked, accepted(wanted));
    const auto begin = static_cast<std::uint32_t>(wanted.resumed_size());
    for (auto p = begin; p < until.value_or(length); ++p) send(router, asked, token(p));
    if (!until) send(router, asked, end());
  }
};

}  // namespace troupe::client::testing
