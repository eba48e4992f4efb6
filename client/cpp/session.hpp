// Asks questions and gets answers, whatever happens to the connections meanwhile: handshakes, failover to the next
// router, the same request id again after a loss, until a deadline. One thread at a time.
//
//   no link --open, Hello--> greeting --Welcome--> ready --ask--> (answer | Failure | loss: next router, ask again)
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "client/cpp/link.hpp"
#include "client/cpp/target.hpp"
#include "common/error.hpp"
#include "common/tensor.hpp"
#include "common/wire/framing.hpp"

namespace troupe::proto {
class ClientToRouter;
class RouterToClient;
class Failure;
class GenerateEvent;
class Welcome;
}  // namespace troupe::proto

namespace troupe::client {

class token_stream;
struct token;

using time_point = std::chrono::steady_clock::time_point;

// A tensor of a question: bytes of the caller, and the envelope's field that describes them.
struct asked_tensor {
  proto::Tensor* field{};
  tensor_view view;
};

// What is asked. The session fills request id, client id and timeout of the envelope.
struct question {
  question();
  ~question();
  std::unique_ptr<proto::ClientToRouter> envelope;
  std::vector<asked_tensor> tensors;
  std::uint32_t rows{};
};

struct answer {
  explicit answer(wire::incoming_message received);
  answer(answer&&) noexcept;
  answer& operator=(answer&&) noexcept;
  ~answer();
  std::unique_ptr<proto::RouterToClient> envelope;
  wire::incoming_message message;
};

// Who reads a stream. Called by the thread that follows it.
struct stream_reader {
  std::function<bool(const token&)> on_token;  // false: enough
  std::function<bool()> is_wanted;             // false: no more; asked while nothing comes. Empty: wanted
};

class session {
 public:
  [[nodiscard]] static result<std::unique_ptr<session>> make(target where);

  // Waits for a Welcome. unavailable, permission_denied, wrong_cluster, wrong_version, invalid_request.
  result<void> greet(std::chrono::milliseconds timeout);
  // The answer (LayerReply or InfoReply), or the router's Failure as error; too_large before anything is sent;
  // timeout; unavailable when no router could be reached. The question's tensors are not read after the return.
  result<answer> ask(question& asked, std::chrono::milliseconds timeout);
  // Returns when the stream has ended, or the reader has had enough (then its router is told). The errors of ask(), but
  // a stream whose router is lost, leaves or says nothing goes on at the next one. Exceptions of the reader pass
  // through.
  result<void> follow(token_stream& stream, std::chrono::milliseconds timeout, const stream_reader& reader);

 private:
  struct pending;    // one question under way
  struct following;  // one stream under way
  enum class after_event : std::uint8_t { go_on, ask_again, over };

  session(target where, std::shared_ptr<wire::context> ctx);
  result<void> connect(time_point deadline);
  result<void> say_hello(time_point deadline);
  result<void> accept(const proto::Welcome& welcome);
  void drop(std::string reason);
  result<void> pause_after_round(time_point deadline);
  void notice_loss();
  result<void> check_limits(const question& asked) const;
  result<void> send(pending& call);
  // nullopt: ask again.
  result<std::optional<answer>> await(pending& call);
  result<std::optional<answer>> on_failure(pending& call, const proto::Failure& failure);
  [[nodiscard]] troupe::error nobody(time_point begun) const;
  // Before the n-th try in a row: doubles, and its second half is random, so that clients do not come back in step.
  [[nodiscard]] std::chrono::milliseconds pause(std::size_t repeated);
  static troupe::error error_of(const proto::Failure& failure);

  // session_stream.cpp
  result<void> find_router(following& call);
  result<void> ask_for_rest(following& call);
  void cancel(const following& call);
  // Whether the stream is over; else it is to be asked for again.
  result<bool> listen(following& call);
  after_event take(following& call, const proto::GenerateEvent& event);
  result<bool> on_stream_failure(following& call, const proto::Failure& failure);
  void rest(const following& call, std::chrono::milliseconds time) const;

  // constant after construction
  std::vector<router_address> routers_;
  std::shared_ptr<wire::context> context_;
  std::string client_id_;
  // the link
  std::string cluster_id_;
  std::unique_ptr<router_link> link_;
  bool ready_{};  // welcomed on link_
  std::size_t current_{};
  std::size_t failures_{};                         // attempts in a row that did not become ready
  std::map<std::size_t, troupe::error> refusals_;  // routers that will not take us, whatever we repeat
  std::string last_failure_{"no attempt was made"};
  std::uint32_t rows_max_{};          // of the router; 0: not said
  std::uint64_t tensor_bytes_max_{};  // the same
  std::uint64_t last_request_{};
  std::minstd_rand jitter_{std::random_device{}()};
};

}  // namespace troupe::client
