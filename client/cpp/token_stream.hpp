// One answer that comes token by token: the question, and what has come so far. Pure.
//
// The token at a position depends on prompt, settings, seed and the tokens before it alone. So a stream that lost its
// router is asked for again, at any router, with the tokens so far as `resumed`: none is lost and none comes twice.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/cpp/include/troupe/text.hpp"
#include "common/error.hpp"

namespace troupe::proto {
class ClientToRouter;
class Failure;
class GenerateEnd;
class GenerateEvent;
}  // namespace troupe::proto

namespace troupe::client {

class token_stream {
 public:
  // `seed`: where the options name none; it goes along to every router.
  token_stream(const prompt& asked, const generate_options& options, std::uint64_t seed);
  ~token_stream();

  // The request for what is still missing.
  [[nodiscard]] proto::ClientToRouter& request(std::uint64_t request_id, const std::string& client_id,
                                               std::uint64_t timeout_ms);
  // The tokens that an event brings, in order. corrupt when one between is missing.
  [[nodiscard]] result<std::vector<token>> absorb(const proto::GenerateEvent& event);
  // Is another try, elsewhere or later, better than telling the caller?
  [[nodiscard]] bool goes_on(const proto::Failure& failure) const;
  // A router has begun with it: from then on it is moved rather than given up.
  [[nodiscard]] bool is_accepted() const { return is_accepted_; }
  [[nodiscard]] const generate_summary& summary() const { return summary_; }

 private:
  void close(const proto::GenerateEnd& end, std::vector<token>& tokens);

  std::unique_ptr<proto::ClientToRouter> envelope_;
  bool fails_at_once_{};
  bool is_accepted_{};
  std::uint32_t max_tokens_{};  // 0: not known yet
  token_ids received_;
  std::optional<token> held_;  // the last one, until its reason is known
  generate_summary summary_;
};

}  // namespace troupe::client
