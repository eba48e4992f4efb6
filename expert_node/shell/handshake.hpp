// Hello and Welcome of this node's data and peer sockets. Pure functions; any thread.
#pragma once

#include <string_view>

#include "common/error.hpp"

namespace troupe::proto {
class Hello;
class Welcome;
}  // namespace troupe::proto

namespace troupe::expert {

class node_identity;

// May the peer that says this talk to us? `user_id` is "role:name" of its key, empty without CURVE.
// wrong_version, wrong_cluster (faults.md P11), permission_denied (the key belongs to another node), unavailable (we do
// not know our own cluster yet).
[[nodiscard]] result<void> check_hello(const proto::Hello& hello, const node_identity& self, std::string_view user_id);

void fill_hello(const node_identity& self, proto::Hello& hello);
void fill_welcome(const node_identity& self, proto::Welcome& welcome);

}  // namespace troupe::expert
