// Brings one bundle from other expert nodes: through shared memory from a node of this machine, else chunk by chunk.
// One fetch at a time per object; belongs to one thread.
#pragma once

#include <memory>
#include <optional>

#include "common/error.hpp"
#include "expert_node/core/chunk_window.hpp"
#include "expert_node/shell/bundle_buffer.hpp"
#include "expert_node/shell/peer_links.hpp"
#include "model/description.hpp"

namespace troupe::expert {

// What has arrived of one bundle; outlives a source that dies midway.
class peer_fetch {
 public:
  // `links` outlives it. `known`: the layout, when this node has the checkpoint's description; else it is learned from
  // the first source.
  peer_fetch(peer_links& links, slot_content content, std::shared_ptr<const model::bundle_layout> known);

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
  [[nodiscard]] result<void> fetch_over(peer_link& to);
  // The whole bundle, written into the links' room by the giver. An error: it has to be chunks.
  [[nodiscard]] result<void> fetch_shared(peer_link& to);
  [[nodiscard]] result<void> ask_to_share(peer_link& to, const wire::shared_segment& segment);
  // Memory and window for a bundle whose layout is known.
  [[nodiscard]] result<void> make_room();
  // Asks for the first chunk to learn size and layout from it.
  [[nodiscard]] result<void> learn(peer_link& to);
  [[nodiscard]] result<void> fetch_missing(peer_link& to);
  [[nodiscard]] proto::PeerToPeer request_for(const chunk_range& range) const;
  // Copies the chunk that `to` has received into the bundle, if it is one of ours.
  [[nodiscard]] result<void> take_chunk(peer_link& to);

  peer_links& links_;
  slot_content content_;
  std::shared_ptr<const model::bundle_layout> layout_;
  bundle_buffer bundle_;
  std::optional<chunk_window> window_;  // none until the size is known
  std::uint64_t fetch_id_{};
};

}  // namespace troupe::expert
