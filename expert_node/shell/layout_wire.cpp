#include "expert_node/shell/layout_wire.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "compute/bundle_plan.hpp"
#include "model/quantised.hpp"
#include "proto/peer.pb.h"

namespace troupe::expert {
namespace {

using model::activation;
using model::tensor_role;

// A dimension beyond this belongs to no model; products of two stay far below 64 bits.
constexpr std::uint32_t dimension_max = 1U << 20;
constexpr int bundle_tensors_max = 9;  // gate, up and down, each with a scale and a bias

// The proto numbers are the enum's plus one, since 0 means "unspecified" there.
proto::Activation to_wire(activation a) { return static_cast<proto::Activation>(static_cast<int>(a) + 1); }
proto::TensorRole to_wire(tensor_role r) { return static_cast<proto::TensorRole>(static_cast<int>(r) + 1); }
static_assert(static_cast<int>(activation::gelu_tanh) + 1 == proto::GELU_TANH);
static_assert(static_cast<int>(tensor_role::gate_up_scale) + 1 == proto::GATE_UP_SCALE);

// Of weights, biases and scales; which of them goes where is the plan's business.
bool is_bundle_type(dtype type) { return model::is_plain(type) || model::is_quantised(type) || type == dtype::f8_e8m0; }

result<model::bundle_tensor> tensor_from(const proto::BundleTensor& message) {
  if (message.role() < proto::GATE || message.role() > proto::GATE_UP_SCALE) {
    return fail(errc::invalid_request, fmt::format("layout: tensor {} has an unknown role", message.name()));
  }
  model::bundle_tensor tensor;
  tensor.role = static_cast<tensor_role>(message.role() - 1);
  tensor.name = message.name();
  tensor.type = static_cast<dtype>(message.dtype());
  tensor.transposed = message.transposed();
  tensor.shape.assign(message.shape().begin(), message.shape().end());
  if (!is_bundle_type(tensor.type)) {
    return fail(errc::invalid_request, fmt::format("layout: tensor {} has a dtype that no bundle has", tensor.name));
  }
  auto bytes = checked_bytes(tensor.type, tensor.shape);
  if (!bytes) return fail(bytes.error());
  tensor.bytes = *bytes;
  return tensor;
}

}  // namespace

void to_proto(const model::bundle_layout& layout, proto::BundleLayout& message) {
  message.set_hidden(layout.shape.hidden);
  message.set_width(layout.shape.width);
  message.set_activation(to_wire(layout.shape.act));
  message.set_has_bias(layout.shape.has_bias);
  message.set_stored(static_cast<proto::DType>(layout.stored));
  message.set_block_outputs(layout.block.outputs);
  message.set_block_inputs(layout.block.inputs);
  for (const auto& tensor : layout.tensors) {
    auto& target = *message.add_tensors();
    target.set_role(to_wire(tensor.role));
    target.set_name(tensor.name);
    target.set_dtype(static_cast<proto::DType>(tensor.type));
    target.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    target.set_transposed(tensor.transposed);
  }
}

result<model::bundle_layout> from_proto(const expert_id& id, const proto::BundleLayout& message) {
  model::bundle_layout layout;
  layout.id = id;
  if (message.activation() < proto::SWIGLU || message.activation() > proto::GELU_TANH) {
    return fail(errc::invalid_request, fmt::format("layout of {}: unknown activation", to_string(id)));
  }
  layout.shape = {message.hidden(), message.width(), static_cast<activation>(message.activation() - 1),
                  message.has_bias()};
  if (message.hidden() == 0 || message.hidden() > dimension_max || message.width() == 0 ||
      message.width() > dimension_max) {
    return fail(errc::invalid_request, fmt::format("layout of {}: hidden {} and width {} must be 1 to {}",
                                                   to_string(id), message.hidden(), message.width(), dimension_max));
  }
  layout.stored = static_cast<dtype>(message.stored());
  if (!model::is_plain(layout.stored) && !model::is_quantised(layout.stored)) {
    return fail(errc::invalid_request, fmt::format("layout of {}: stored as what no weights are", to_string(id)));
  }
  layout.block = {std::max(1U, message.block_outputs()), std::max(1U, message.block_inputs())};
  if (message.tensors_size() > bundle_tensors_max) {
    return fail(errc::invalid_request, fmt::format("layout of {}: {} tensors, an expert has at most {}", to_string(id),
                                                   message.tensors_size(), bundle_tensors_max));
  }
  for (const auto& described : message.tensors()) {
    auto tensor = tensor_from(described);
    if (!tensor) return fail(tensor.error());
    layout.tensors.push_back(std::move(*tensor));
  }
  // Roles, shapes and types must make an expert, or the device would read past the bundle.
  if (auto plan = compute::plan_bundle(layout, layout.bytes()); !plan) return fail(plan.error());
  return layout;
}

}  // namespace troupe::expert
