#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <random>
#include <utility>

#include "client/cpp/include/troupe/client.hpp"
#include "client/cpp/session.hpp"
#include "client/cpp/target.hpp"
#include "client/cpp/token_stream.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/limits.hpp"
#include "proto/client_router.pb.h"

namespace troupe::client {
namespace {

static_assert(static_cast<int>(error_code::cancelled) == static_cast<int>(errc::cancelled));
static_assert(static_cast<int>(dtype::bf16) == static_cast<int>(troupe::dtype::bf16));
static_assert(static_cast<int>(degrade::fail) == static_cast<int>(proto::FAIL));

[[noreturn]] void raise(const troupe::error& cause) { throw error(static_cast<error_code>(cause.code), cause.message); }

[[noreturn]] void refuse(const std::string& message) { throw error(error_code::invalid_request, message); }

template <class T>
T value_of(result<T> outcome) {
  if (!outcome) raise(outcome.error());
  return std::move(*outcome);
}

void check_timeout(std::chrono::milliseconds timeout, std::chrono::milliseconds longest = limits::request_timeout_max) {
  if (timeout <= std::chrono::milliseconds{0} || timeout > longest) {
    refuse(fmt::format("timeout is {} ms; use more than 0 and at most {} ms", timeout.count(), longest.count()));
  }
}

void check_policy(degrade policy) {
  if (policy < degrade::wait || policy > degrade::fail) {
    refuse(fmt::format("degrade is {}; use wait, substitute, renormalise or fail", static_cast<int>(policy)));
  }
}

std::span<const std::byte> bytes_of(const row_view& hidden) {
  if (hidden.type != dtype::f32 && hidden.type != dtype::f16 && hidden.type != dtype::bf16) {
    refuse(fmt::format("hidden has dtype {}; use f32, f16 or bf16", static_cast<int>(hidden.type)));
  }
  const std::uint64_t shape[] = {hidden.count, hidden.width};
  const auto bytes = value_of(checked_bytes(static_cast<troupe::dtype>(hidden.type), shape));
  if (bytes == 0 || hidden.data == nullptr) {
    refuse(fmt::format("hidden is [{}, {}]; it must have at least one row and one column", hidden.count, hidden.width));
  }
  return {static_cast<const std::byte*>(hidden.data), bytes};
}

// The fields that layer and experts requests share.
template <class Body>
void fill(question& asked, Body& body, const layer_name& layer, const row_view& hidden, const call_options& options) {
  check_timeout(options.timeout);
  check_policy(options.policy);
  body.set_layer(layer.text());
  body.set_degrade(static_cast<proto::Degrade>(options.policy));
  asked.tensors.push_back({body.mutable_hidden(),
                           {static_cast<troupe::dtype>(hidden.type), {hidden.count, hidden.width}, bytes_of(hidden)}});
  asked.rows =
      static_cast<std::uint32_t>(std::min<std::size_t>(hidden.count, std::numeric_limits<std::uint32_t>::max()));
}

}  // namespace

// -- values -------------------------------------------------------------------------------------------------------

std::string_view to_string(error_code code) noexcept { return troupe::to_string(static_cast<errc>(code)); }

error::error(error_code code, const std::string& message) : std::runtime_error(message), code_(code) {}
error::~error() = default;
bool error::retryable() const noexcept { return is_retryable(static_cast<errc>(code_)); }

std::size_t bytes_per_element(dtype type) noexcept { return type == dtype::f32 ? 4 : 2; }

layer_name::layer_name(int block) : layer_name(std::string_view(std::to_string(block))) {}

layer_name::layer_name(std::string_view name) : text_(name) {
  if (!parse_layer(name)) refuse(fmt::format("layer is '{}'; use the block's number, encoder.N or decoder.N", name));
}

// -- results ------------------------------------------------------------------------------------------------------

struct layer_result::state {
  explicit state(answer got) : received(std::move(got)) {}
  answer received;
  tensor_view output, routed_output, expert_ids, expert_weights, flags;
};

layer_result::layer_result(std::unique_ptr<const state> s) noexcept : state_(std::move(s)) {}
layer_result::layer_result(layer_result&&) noexcept = default;
layer_result& layer_result::operator=(layer_result&&) noexcept = default;
layer_result::~layer_result() = default;

namespace {

template <class T>
std::span<const T> elements(const tensor_view& view) {
  return {reinterpret_cast<const T*>(view.bytes.data()), view.bytes.size() / sizeof(T)};
}

[[noreturn]] void raise_misfit(std::string_view tensor) {
  throw error(error_code::corrupt,
              fmt::format("the router's answer does not fit the request: {}; it was not used", tensor));
}

tensor_view read(const answer& received, const proto::Tensor& tensor, std::string_view name, troupe::dtype type,
                 std::initializer_list<std::uint64_t> shape) {
  auto view = value_of(received.message.tensor(tensor, name));
  if (view.type != type || !std::equal(shape.begin(), shape.end(), view.shape.begin(), view.shape.end())) {
    raise_misfit(name);
  }
  return view;
}

layer_result read_layer(answer received, const row_view& hidden) {
  if (!received.envelope->has_layer()) raise_misfit("it is no layer reply");
  auto made = std::make_unique<layer_result::state>(std::move(received));
  const auto& reply = made->received.envelope->layer();
  const auto type = static_cast<troupe::dtype>(hidden.type);
  if (reply.expert_ids().shape_size() != 2) raise_misfit("expert_ids");
  const auto chosen = reply.expert_ids().shape(1);
  const auto& source = made->received;
  made->output = read(source, reply.output(), "output", type, {hidden.count, hidden.width});
  // Where both name one part, its checksum was just compared.
  made->routed_output = reply.routed_output().part() == reply.output().part()
                            ? made->output
                            : read(source, reply.routed_output(), "routed_output", type, {hidden.count, hidden.width});
  made->expert_ids = read(source, reply.expert_ids(), "expert_ids", troupe::dtype::i32, {hidden.count, chosen});
  made->expert_weights =
      read(source, reply.expert_weights(), "expert_weights", troupe::dtype::f32, {hidden.count, chosen});
  made->flags = read(source, reply.flags(), "flags", troupe::dtype::u8, {hidden.count});
  return layer_result(std::move(made));
}

}  // namespace

std::size_t layer_result::rows() const noexcept { return state_->output.shape[0]; }
std::size_t layer_result::width() const noexcept { return state_->output.shape[1]; }
std::size_t layer_result::experts_per_token() const noexcept { return state_->expert_ids.shape[1]; }
dtype layer_result::type() const noexcept { return static_cast<dtype>(state_->output.type); }
std::span<const std::byte> layer_result::output() const noexcept { return state_->output.bytes; }
std::span<const std::byte> layer_result::routed_output() const noexcept { return state_->routed_output.bytes; }
std::span<const std::int32_t> layer_result::expert_ids() const noexcept {
  return elements<std::int32_t>(state_->expert_ids);
}
std::span<const float> layer_result::expert_weights() const noexcept { return elements<float>(state_->expert_weights); }
std::span<const std::uint8_t> layer_result::flags() const noexcept { return elements<std::uint8_t>(state_->flags); }
std::uint64_t layer_result::epoch() const noexcept { return state_->received.envelope->layer().epoch(); }

// -- cluster ------------------------------------------------------------------------------------------------------

struct cluster::state {
  std::mutex mutex;
  std::unique_ptr<session> conversation;  // protected by mutex

  answer ask(question& asked, std::chrono::milliseconds timeout) {
    const std::lock_guard lock(mutex);
    return value_of(conversation->ask(asked, timeout));
  }

  std::string info(proto::InfoKind kind, std::chrono::milliseconds timeout, std::string layer = {}) {
    check_timeout(timeout);
    question asked;
    auto& body = *asked.envelope->mutable_info();
    body.set_kind(kind);
    body.set_layer(std::move(layer));
    auto received = ask(asked, timeout);
    if (!received.envelope->has_info()) raise_misfit("it is no info reply");
    return std::move(*received.envelope->mutable_info()->mutable_json());
  }

  proto::TokenizeReply tokenize(question& asked, std::chrono::milliseconds timeout) {
    check_timeout(timeout);
    auto received = ask(asked, timeout);
    if (!received.envelope->has_tokenize()) raise_misfit("it is no tokenize reply");
    return std::move(*received.envelope->mutable_tokenize());
  }
};

cluster::cluster(std::unique_ptr<state> s) noexcept : state_(std::move(s)) {}
cluster::cluster(cluster&&) noexcept = default;
cluster& cluster::operator=(cluster&&) noexcept = default;
cluster::~cluster() = default;

cluster cluster::connect(const connect_options& options) {
  check_timeout(options.timeout);
  auto made = std::make_unique<state>();
  made->conversation = value_of(session::make(value_of(resolve(options))));
  if (auto greeted = made->conversation->greet(options.timeout); !greeted) raise(greeted.error());
  return cluster(std::move(made));
}

layer_result cluster::layer(const layer_name& layer, const row_view& hidden, const call_options& options) {
  question asked;
  fill(asked, *asked.envelope->mutable_layer(), layer, hidden, options);
  return read_layer(state_->ask(asked, options.timeout), hidden);
}

layer_result cluster::experts(const layer_name& layer, const row_view& hidden, std::span<const std::int32_t> ids,
                              std::span<const float> weights, const call_options& options) {
  if (ids.empty() || ids.size() != weights.size() || hidden.count == 0 || ids.size() % hidden.count != 0) {
    refuse(fmt::format("{} ids and {} weights for {} rows; both must be [rows, k]", ids.size(), weights.size(),
                       hidden.count));
  }
  if (options.policy == degrade::substitute) {
    refuse("degrade is substitute, but the caller chose the experts; use wait, renormalise or fail");
  }
  question asked;
  auto& body = *asked.envelope->mutable_experts();
  fill(asked, body, layer, hidden, options);
  const std::vector<std::uint64_t> shape{hidden.count, ids.size() / hidden.count};
  asked.tensors.push_back({body.mutable_expert_ids(), {troupe::dtype::i32, shape, std::as_bytes(ids)}});
  asked.tensors.push_back({body.mutable_expert_weights(), {troupe::dtype::f32, shape, std::as_bytes(weights)}});
  return read_layer(state_->ask(asked, options.timeout), hidden);
}

generate_summary cluster::generate(const prompt& asked, const generate_options& options,
                                   const std::function<bool(const token&)>& on_token) {
  check_timeout(options.timeout, limits::generation_timeout_max);
  check_policy(options.policy);
  std::random_device source;
  token_stream stream(asked, options, std::uint64_t{source()} << 32 | source());
  const std::lock_guard lock(state_->mutex);
  auto followed = state_->conversation->follow(stream, options.timeout, {on_token, options.is_wanted});
  if (!followed) raise(followed.error());
  return stream.summary();
}

token_ids cluster::tokenize(const prompt& text, bool add_special, std::chrono::milliseconds timeout) {
  question asked;
  auto& body = *asked.envelope->mutable_tokenize();
  body.set_add_special_tokens(add_special);
  if (const auto* plain = std::get_if<std::string>(&text.given())) {
    body.set_text(*plain);
  } else if (const auto* chat = std::get_if<chat_messages>(&text.given())) {
    body.set_messages_json(chat->json);
  } else {
    return std::get<token_ids>(text.given());
  }
  const auto reply = state_->tokenize(asked, timeout);
  return {reply.tokens().begin(), reply.tokens().end()};
}

std::string cluster::detokenize(const token_ids& tokens, std::chrono::milliseconds timeout) {
  question asked;
  asked.envelope->mutable_tokenize()->mutable_tokens()->mutable_ids()->Add(tokens.begin(), tokens.end());
  return state_->tokenize(asked, timeout).text();
}

std::string cluster::status(std::chrono::milliseconds timeout) { return state_->info(proto::STATUS, timeout); }
std::string cluster::nodes(std::chrono::milliseconds timeout) { return state_->info(proto::NODES, timeout); }
std::string cluster::model(std::chrono::milliseconds timeout) { return state_->info(proto::MODEL, timeout); }
std::string cluster::list_experts(const std::optional<layer_name>& layer, std::chrono::milliseconds timeout) {
  return state_->info(proto::EXPERTS, timeout, layer ? layer->text() : std::string{});
}

}  // namespace troupe::client
