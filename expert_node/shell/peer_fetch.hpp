// Brings one bundle from other expert nodes: through shared memory from a node of this machine, else chunk by chunk.
// One fetch at a time per object; belongs to one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/error.hpp"
#include "common/wire/shared_memory.hpp"
#include "common/wire/socket.hpp"
#include "expert_node/core/chunk_window.hpp"
#include "expert_node/shell/bundle_buffer.hpp"
#include "expert_node/shell/host_ports.hpp"
#include "model/description.hpp"

namespace troupe::expert {

class node_identity;

// Memory that a giver on this machine writes a bundle into; for one fetch after the other, on one thread.
class shared_room {
 public:
  // Of at least `bytes`; another one when that of the last bundle is still in use or too small. no_space as
  // wire::shared_segment::create.
  [[nodiscard]] result<std::shared_ptr<const wire::shared_segment>> take(std::string_view cluster_id,
                                                                         std::size_t bytes);
  // Not used again: a giver that was given up may still write into it.
  void forget() { segment_.reset(); }

 private:
  std::shared_ptr<const wire::shared_segment> segment_;
};

struct peer_fetch_settings {
  std::shared_ptr<wire::context> context;
  std::shared_ptr<const node_identity> identity;
  // Keys for a peer on TCP with that public key; nullopt on ipc.
  std::function<std::optional<wire::curve_client>(const peer_source&)> keys;
  std::function<bool()> cancelled;  // asked at least every limits::peer_chunk_timeout
  chunk_options chunks;
  // Kept from one fetch to the next, so that its pages are there already. None: chunks also from a node of this
  // machine.
  std::shared_ptr<shared_room> room;
};

// What has arrived of one bundle; outlives a source that dies midway.
class peer_fetch {
 public:
  // `known`: the layout, when this node has the checkpoint's description; else it is learned from the first source.
  peer_fetch(peer_fetch_settings settings, slot_content content, std::shared_ptr<const model::bundle_layout> known);

  // Asks this source for what is missing. Success: everything is here (unverified). timeout, unavailable, not_found,
  // overloaded and the like: try another source, this object keeps what came. cancelled: the node stops.
  [[nodiscard]] result<void> from(const peer_source& source);
  // What came was wrong: the next source starts from the beginning.
  void discard();

  // Has any source given bytes that are still here?
  [[nodiscard]] bool has_some() const;

  // After success.
  [[nodiscard]] std::shared_ptr<const model::bundle_layout> layout() const { return layout_; }
  [[nodiscard]] bundle_buffer& bundle() { return bundle_; }

 private:
  struct link;

  [[nodiscard]] result<void> greet(link& to);
  // The whole bundle, written into the room by the giver. An error: it has to be chunks.
  [[nodiscard]] result<void> fetch_shared(link& to);
  [[nodiscard]] result<void> ask_to_share(link& to, const wire::shared_segment& segment);
  // Memory and window for a bundle whose layout is known.
  [[nodiscard]] result<void> make_room();
  // Asks for the first chunk to learn size and layout from it.
  [[nodiscard]] result<void> learn(link& to);
  [[nodiscard]] result<void> fetch_missing(link& to);
  [[nodiscard]] result<void> send_request(link& to, const chunk_range& range);
  // The next message from the peer, or timeout, or cancelled.
  [[nodiscard]] result<void> receive(link& to, time_point deadline);
  // Copies the chunk that `to` has received into the bundle, if it is one of ours.
  [[nodiscard]] result<void> take_chunk(link& to);

  peer_fetch_settings settings_;
  slot_content content_;
  std::shared_ptr<const model::bundle_layout> layout_;
  bundle_buffer bundle_;
  std::optional<chunk_window> window_;  // none until the size is known
  std::uint64_t fetch_id_{};
};

}  // namespace troupe::expert
