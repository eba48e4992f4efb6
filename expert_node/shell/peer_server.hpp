// The thread that gives bundles of this node's slots to other expert nodes: as a whole through shared memory to a node
// of the same machine, else in the chunks they ask for.
//
// A bundle is read once per transfer (out of its slot, or from the checkpoint when packing has lost bits), and dropped
// after its last chunk, when the other side has mapped it, or when nobody asks any more. At most
// limits::peer_bundles_open_max are kept; further nodes are told to come back.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/error.hpp"
#include "common/http/metrics.hpp"
#include "common/wire/socket.hpp"
#include "expert_node/core/slot_table.hpp"
#include "expert_node/shell/bundle_buffer.hpp"
#include "expert_node/shell/gpu_transfer.hpp"
#include "model/description.hpp"

namespace troupe::expert {

class node_identity;

// A bundle as it stands in the checkpoint.
struct open_bundle {
  std::shared_ptr<const model::bundle_layout> layout;
  bundle_buffer bytes;
};

struct peer_server_settings {
  std::shared_ptr<wire::context> context;
  std::string address;          // to bind
  wire::socket_options socket;  // CURVE on TCP
  std::shared_ptr<const node_identity> identity;
  // Reads what this node serves into memory that `make_room(bytes)` gives; called on the server's thread, may take as
  // long as reading takes. unknown_expert: not served here.
  using make_room = std::function<result<bundle_buffer>(std::size_t)>;
  std::function<result<open_bundle>(const slot_content&, const make_room&)> open;
  // Sends this node's end of a link to work and returns at once; the expert's layout. Empty: this node does not link.
  std::function<result<std::shared_ptr<const model::bundle_layout>>(const link_request&)> link;
};

struct peer_server_counters {
  http::counter bundles_opened;
  http::counter bytes_sent;
  http::counter messages_rejected;
};

class peer_server {
 public:
  // Binds and starts the thread. conflict, invalid_request: about the address.
  [[nodiscard]] static result<std::unique_ptr<peer_server>> start(peer_server_settings settings);
  ~peer_server();
  peer_server(const peer_server&) = delete;
  peer_server& operator=(const peer_server&) = delete;

  [[nodiscard]] const std::string& address() const;
  [[nodiscard]] const peer_server_counters& counters() const;
  void stop();

 private:
  class impl;
  explicit peer_server(std::unique_ptr<impl> i);
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::expert
