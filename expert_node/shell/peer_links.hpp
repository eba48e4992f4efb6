// The taker's side of the way between expert nodes that outlives a bundle: connections that have been greeted, and
// memory that a giver on this machine writes into. Bundles mostly come several at a time; the second finds all of it
// there. Belongs to one thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/shared_memory.hpp"
#include "common/wire/socket.hpp"
#include "expert_node/core/chunk_window.hpp"
#include "expert_node/shell/host_ports.hpp"

namespace troupe::proto {
class PeerToPeer;
}  // namespace troupe::proto

namespace troupe::expert {

class node_identity;

struct peer_fetch_settings {
  std::shared_ptr<wire::context> context;
  std::shared_ptr<const node_identity> identity;
  // Keys for a peer on TCP with that public key; nullopt on ipc.
  std::function<std::optional<wire::curve_client>(const peer_source&)> keys;
  std::function<bool()> cancelled;  // asked at least every limits::peer_chunk_timeout
  chunk_options chunks;
  bool is_sharing{true};  // false: chunks also from a node of this machine
};

// One connection to one source, and the last message that came over it.
class peer_link {
 public:
  // Connects and greets. unavailable: nobody there within limits::handshake_timeout; else what the source answered.
  [[nodiscard]] static result<std::unique_ptr<peer_link>> open(const peer_fetch_settings& settings,
                                                               const peer_source& source);
  ~peer_link();
  peer_link(const peer_link&) = delete;
  peer_link& operator=(const peer_link&) = delete;

  // Says hello, as often as one likes. unavailable: no connection by the deadline; timeout: no answer by then.
  [[nodiscard]] result<void> greet(time_point deadline);
  // unavailable: the connection does not stand.
  [[nodiscard]] result<void> send(const proto::PeerToPeer& request);
  // The next message; an error if the source refuses what was sent, at the deadline, or when cancelled.
  [[nodiscard]] result<void> receive(time_point deadline);
  // Sends, and receives until `is_answer` holds for the message; what comes before belongs to older requests.
  [[nodiscard]] result<void> ask(const proto::PeerToPeer& request, time_point deadline,
                                 const std::function<bool(const proto::PeerToPeer&)>& is_answer);

  [[nodiscard]] const std::string& node() const { return node_; }
  [[nodiscard]] const proto::PeerToPeer& envelope() const { return *envelope_; }
  [[nodiscard]] const wire::incoming_message& message() const { return *message_; }

 private:
  peer_link(const peer_fetch_settings& settings, std::string node, wire::socket opened);
  const peer_fetch_settings& settings_;
  std::string node_;
  wire::socket socket_;
  wire::poller waiting_;
  std::optional<wire::incoming_message> message_;
  std::unique_ptr<proto::PeerToPeer> envelope_;
};

class peer_links {
 public:
  explicit peer_links(peer_fetch_settings settings) : settings_{std::move(settings)} {}
  peer_links(const peer_links&) = delete;
  peer_links& operator=(const peer_links&) = delete;

  [[nodiscard]] const peer_fetch_settings& settings() const { return settings_; }
  // A number that no other fetch over these links has.
  [[nodiscard]] std::uint64_t next_fetch_id() { return ++fetch_id_; }

  // The connection that was kept, if the source still knows it, or a new one. At most limits::peer_links_max are kept.
  [[nodiscard]] result<peer_link*> to(const peer_source& source);
  void close(const peer_source& source) { links_.erase(key_of(source)); }

  // Shared memory of at least `bytes`; another segment when that of the last bundle is still in use or too small.
  // no_space as wire::shared_segment::create.
  [[nodiscard]] result<std::shared_ptr<const wire::shared_segment>> room(std::size_t bytes);
  // Not used again: a giver that was given up may still write into it.
  void forget_room() { room_.reset(); }

  // No bundle has come for a while.
  void forget() {
    links_.clear();
    room_.reset();
  }

 private:
  [[nodiscard]] static std::string key_of(const peer_source& source) {
    return source.address + ' ' + source.public_key;
  }

  peer_fetch_settings settings_;
  std::map<std::string, std::unique_ptr<peer_link>> links_;
  std::shared_ptr<const wire::shared_segment> room_;
  std::uint64_t fetch_id_{};
};

}  // namespace troupe::expert
