// A bundle's layout as peers tell it to each other. Pure functions, any thread.
#pragma once

#include "common/error.hpp"
#include "common/ids.hpp"
#include "model/description.hpp"

namespace troupe::proto {
class BundleLayout;
}

namespace troupe::expert {

void to_proto(const model::bundle_layout& layout, proto::BundleLayout& message);

// The device trusts a layout, so everything it relies on is checked: which tensors there are, their shapes and types.
// invalid_request naming the tensor.
[[nodiscard]] result<model::bundle_layout> from_proto(const expert_id& id, const proto::BundleLayout& message);

}  // namespace troupe::expert
