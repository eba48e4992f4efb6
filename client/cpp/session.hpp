// Asks questions and gets answers, whatever happens to the connections meanwhile: handshakes, failover to the next
// router, the same request id again after a loss, until a deadline. One thread at a time.
//
//   no link --open, Hello--> greeting --Welcome--> ready --ask--> (answer | Failure | loss: next router, ask again)
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
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
class Welcome;
}  // namespace troupe::proto

namespace troupe::client {

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

class session {
 public:
  [[nodiscard]] static result<std::unique_ptr<session>> make(target where);

  // Waits for a Welcome. unavailable, permission_denied, wrong_cluster, wrong_version, invalid_request.
  result<void> greet(std::chrono::milliseconds timeout);
  // The answer (LayerReply or InfoReply), or the router's Failure as error; too_large before anything is sent;
  // timeout; unavailable when no router could be reached. The question's tensors are not read after the return.
  result<answer> ask(question& asked, std::chrono::milliseconds timeout);

 private:
  struct pending;  // one question under way

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
};

}  // namespace troupe::client
