// Who this router is: what handshakes and the JSON documents say about it.
#pragma once

#include <functional>
#include <string>

#include "common/ids.hpp"
#include "model/description.hpp"

namespace troupe::router {

// The functions may be called from any thread.
struct router_identity {
  node_id name;
  std::function<incarnation_number()> incarnation;
  std::function<std::string()> cluster_id;  // empty: not known yet
  const model::description* model{};        // outlives everything that asks
  dtype type{dtype::f32};                   // of the cluster's rows
};

}  // namespace troupe::router
