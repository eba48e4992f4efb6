#include "expert_node/shell/layout_wire.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "proto/peer.pb.h"

namespace troupe::expert {
namespace {

using model::activation;
using model::tensor_role;

// A dimension beyond this belongs to no model; products of two stay far below 64 bits.
constexpr std::uint32_t dimension_max = 1U << 20;

// The proto numbers are the enum's plus one, since 0 means "unspecified" there.
proto::Activation to_wire(activation a) { return static_cast<proto::Activation>(static_cast<int>(a) + 1); }
proto::TensorRole to_wire(tensor_role r) { return static_cast<proto::TensorRole>(static_cast<int>(r) + 1); }
static_assert(static_cast<int>(activation::gelu_tanh) + 1 == proto::GELU_TANH);
static_assert(static_cast<int>(tensor_role::gate_up_bias) + 1 == proto::GATE_UP_BIAS);

bool is_weight_type(dtype type) { return type == dtype::f32 || type == dtype::f16 || type == dtype::bf16; }

// [out, in] of a weight, [out] of a bias.
std::vector<std::uint64_t> expected_shape(tensor_role role, const model::expert_shape& shape) {
  const std::uint64_t hidden = shape.hidden;
  const std::uint64_t width = shape.width;
  switch (role) {
    case tensor_role::gate:
    case tensor_role::up:
      return {width, hidden};
    case tensor_role::down:
      return {hidden, width};
    case tensor_role::gate_up:
      return {2 * width, hidden};
    case tensor_role::gate_bias:
    case tensor_role::up_bias:
      return {width};
    case tensor_role::down_bias:
      return {hidden};
    case tensor_role::gate_up_bias:
      return {2 * width};
  }
  return {};
}

// The sets of tensors that an expert may consist of.
bool is_complete(std::vector<tensor_role> roles, const model::expert_shape& shape) {
  using enum tensor_role;
  std::sort(roles.begin(), roles.end());
  std::vector<tensor_role> apart = model::is_gated(shape.act) ? std::vector{gate, up, down} : std::vector{up, down};
  std::vector<tensor_role> packed{down, gate_up};
  if (shape.has_bias) {
    if (model::is_gated(shape.act)) apart.push_back(gate_bias);
    apart.push_back(up_bias);
    apart.push_back(down_bias);
    packed.push_back(down_bias);
    packed.push_back(gate_up_bias);
  }
  std::sort(apart.begin(), apart.end());
  std::sort(packed.begin(), packed.end());
  return roles == apart || (model::is_gated(shape.act) && roles == packed);
}

result<model::bundle_tensor> tensor_from(const proto::BundleTensor& message, const model::expert_shape& shape) {
  if (message.role() < proto::GATE || message.role() > proto::GATE_UP_BIAS) {
    return fail(errc::invalid_request, fmt::format("layout: tensor {} has an unknown role", message.name()));
  }
  model::bundle_tensor tensor;
  tensor.role = static_cast<tensor_role>(message.role() - 1);
  tensor.name = message.name();
  tensor.type = static_cast<dtype>(message.dtype());
  tensor.transposed = message.transposed();
  tensor.shape.assign(message.shape().begin(), message.shape().end());
  if (!is_weight_type(tensor.type)) {
    return fail(errc::invalid_request, fmt::format("layout: tensor {} is neither F32, F16 nor BF16", tensor.name));
  }
  auto expected = expected_shape(tensor.role, shape);
  if (tensor.transposed) std::reverse(expected.begin(), expected.end());
  if (tensor.shape != expected) {
    return fail(errc::invalid_request,
                fmt::format("layout: tensor {} has shape {}, expected {}", tensor.name, tensor.shape, expected));
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
  if (!is_weight_type(layout.stored)) {
    return fail(errc::invalid_request, fmt::format("layout of {}: stored as neither F32, F16 nor BF16", to_string(id)));
  }
  std::vector<tensor_role> roles;
  for (const auto& described : message.tensors()) {
    auto tensor = tensor_from(described, layout.shape);
    if (!tensor) return fail(tensor.error());
    roles.push_back(tensor->role);
    layout.tensors.push_back(std::move(*tensor));
  }
  if (!is_complete(std::move(roles), layout.shape)) {
    return fail(errc::invalid_request, fmt::format("layout of {}: its {} tensors do not make an expert", to_string(id),
                                                   message.tensors_size()));
  }
  return layout;
}

}  // namespace troupe::expert
