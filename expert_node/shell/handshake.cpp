#include "expert_node/shell/handshake.hpp"

#include <fmt/format.h>

#include "common/limits.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "proto/common.pb.h"

namespace troupe::expert {
result<void> check_hello(const proto::Hello& hello, const node_identity& self, std::string_view user_id) {
  if (hello.wire_major() != limits::wire_version_major) {
    return fail(errc::wrong_version,
                fmt::format("peer {} speaks wire version {}.{}, this node {}.{}; upgrade the older "
                            "one first",
                            hello.node(), hello.wire_major(), hello.wire_minor(), limits::wire_version_major,
                            limits::wire_version_minor));
  }
  auto cluster = self.cluster_id();
  if (cluster.empty()) {
    return fail(errc::unavailable, fmt::format("{} has not met its coordinator yet; retry later", self.name().value));
  }
  if (hello.cluster_id() != cluster) {
    return fail(errc::wrong_cluster, fmt::format("{} belongs to cluster {}, {} to {}; stop the process that is left "
                                                 "over from another launch",
                                                 hello.node(), hello.cluster_id(), self.name().value, cluster));
  }
  if (!is_valid_node_name(hello.node())) {
    return fail(errc::invalid_request, fmt::format("hello.node: '{}' is no node name", hello.node()));
  }
  auto colon = user_id.find(':');
  if (colon != std::string_view::npos && user_id.substr(colon + 1) != hello.node()) {
    return fail(errc::permission_denied,
                fmt::format("the key of {} says hello as {}; give each node its own key", user_id, hello.node()));
  }
  return {};
}

void fill_hello(const node_identity& self, proto::Hello& hello) {
  hello.set_wire_major(limits::wire_version_major);
  hello.set_wire_minor(limits::wire_version_minor);
  hello.set_cluster_id(self.cluster_id());
  hello.set_node(self.name().value);
  hello.set_incarnation(self.incarnation().value);
  hello.set_software(limits::software);
}

void fill_welcome(const node_identity& self, proto::Welcome& welcome) {
  welcome.set_wire_major(limits::wire_version_major);
  welcome.set_wire_minor(limits::wire_version_minor);
  welcome.set_cluster_id(self.cluster_id());
  welcome.set_node(self.name().value);
  welcome.set_incarnation(self.incarnation().value);
  welcome.set_software(limits::software);
  welcome.set_tensor_bytes_max(limits::tensor_bytes_max);
  welcome.set_envelope_bytes_max(limits::envelope_bytes_max);
  welcome.set_parts_max(limits::parts_per_message_max);
  welcome.set_rows_per_request_max(limits::rows_per_request_max);
}

}  // namespace troupe::expert
