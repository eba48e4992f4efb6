// Text over ZeroMQ: requests become jobs of the generation engine, its events messages to the client.
//
//   router's thread                    work queue                     engine's thread
//   generate() ── prompt, settings ──> tokens, checks, engine.generate
//   handle()  <───── mailbox ───────── started <───────────────────── token, ..., end | error
//
// All that has come for one connection since the last turn goes out as one message. What a slow client's queue has no
// room for is gathered for a while. A client that is gone or does not read at all ends its streams: it goes on
// elsewhere with the tokens that it has (faults.md P3, P13). Thread rule: the router's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/limits.hpp"
#include "router_node/core/replay_cache.hpp"
#include "router_node/shell/client_door.hpp"
#include "router_node/shell/text_source.hpp"
#include "router_node/shell/work_queue.hpp"

namespace troupe::proto {
class CancelRequest;
class GenerateEvent;
class GenerateEvents;
class GenerateRequest;
class TokenizeRequest;
}  // namespace troupe::proto

namespace troupe::router {

class router_metrics;

class client_streams {
 public:
  using text_or_reason = result<std::shared_ptr<const text_source>>;

  // `door` and `metrics` are borrowed. `wake` makes the router's thread call handle() soon; any thread may call it
  // until the destructor has ended.
  client_streams(client_door& door, router_metrics& metrics, std::uint64_t seed, std::function<void()> wake);
  ~client_streams();
  client_streams(const client_streams&) = delete;
  client_streams& operator=(const client_streams&) = delete;

  // From now on requests go there; or why there is no text to be had. The engine must not end before this object, or
  // before it has another.
  void use(text_or_reason text);

  // `user`: whom limits per client count. in_progress while a request of this name runs.
  void generate(const client_address& to, const client_request& name, std::string user,
                const proto::GenerateRequest& request, time_point now);
  void cancel(const client_request& name);
  void tokenize(const client_address& to, const proto::TokenizeRequest& request);

  // Passes on what the other threads have for clients.
  void handle(time_point now);
  [[nodiscard]] time_point next_tick() const { return next_alive_; }
  [[nodiscard]] std::size_t size() const { return streams_.size(); }
  // Ends all streams with this error, which sends their clients elsewhere.
  void abort_all(const error& reason);

 private:
  struct stream;
  struct mailbox;
  struct started;
  struct news;
  struct tokenized;
  using stream_number = std::uint64_t;

  void obey(started&& what, time_point now);
  void obey(news&& what, time_point now);
  void obey(tokenized&& what, time_point now);
  void say_alive(time_point now);
  void flush(time_point now);
  void send_events(const client_address& to, const std::vector<stream_number>& numbers, time_point now);
  // `events` [numbers]: what was to be sent of each.
  void conclude(const std::vector<stream_number>& numbers, proto::GenerateEvents& events, const result<void>& sent,
                time_point now);
  // False: the client has not read for too long, or too much is gathered.
  [[nodiscard]] static bool keep(stream& s, proto::GenerateEvent& event, time_point now);
  // The client cannot be told anything any more.
  void abandon(stream_number number);
  void refuse(const client_address& to, std::uint64_t number, const error& reason);
  void erase(stream_number number);

  client_door& door_;
  router_metrics& metrics_;
  std::mt19937_64 random_;
  std::shared_ptr<mailbox> mailbox_;
  text_or_reason text_;
  std::map<stream_number, std::unique_ptr<stream>> streams_;
  std::map<std::pair<std::string, std::uint64_t>, stream_number> names_;
  std::vector<stream_number> changed_;  // have something to send
  stream_number last_number_{};
  time_point next_alive_{time_point::max()};
  work_queue queue_{limits::prompts_waiting_max};  // ends first: its work knows the mailbox
};

}  // namespace troupe::router
