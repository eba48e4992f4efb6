// The C++ client of a Troupe cluster: text from the model that it serves, and its MoE layers one by one.
//
//   auto cluster = troupe::client::cluster::connect();
//   cluster.generate("def add(a, b):", {.max_tokens = 64}, [](const token& t) { std::cout << t.text; return true; });
//   auto result = cluster.layer(3, {.type = dtype::f32, .count = rows, .width = hidden_size, .data = values.data()});
//   std::span<const float> output = result.output_as<float>();
//
// Errors: every function throws troupe::client::error (code(), retryable(), what()) unless it is noexcept; a call
// either returns a complete answer or throws, never part of one (a stream: when it cannot go on). A call whose
// connection is lost is asked again under the same request id, at the next router if there are several, until its
// timeout.
//
// Threads: calls from several threads are safe and are done one after another. For calls side by side, connect once
// per thread. The callers' rows are read in place and never after the call has returned.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "troupe/text.hpp"

namespace troupe::client {

// The numbers are those of the wire.
enum class error_code : std::uint8_t {
  invalid_request = 1,
  not_found = 2,
  unavailable = 3,
  timeout = 4,
  overloaded = 5,
  permission_denied = 6,
  conflict = 7,
  internal = 8,
  stale_epoch = 9,
  unknown_expert = 10,
  too_large = 11,
  wrong_version = 12,
  wrong_cluster = 13,
  corrupt = 14,
  no_space = 15,
  out_of_memory = 16,
  handshake_required = 17,
  in_progress = 18,
  cancelled = 19,
};

// "unavailable", "invalid_request", ...
[[nodiscard]] std::string_view to_string(error_code code) noexcept;

// what() says what happened, to which object, and after a ';' what to do next.
class error : public std::runtime_error {
 public:
  error(error_code code, const std::string& message);
  ~error() override;
  [[nodiscard]] error_code code() const noexcept { return code_; }
  // May the same call succeed later without being changed?
  [[nodiscard]] bool retryable() const noexcept;

 private:
  error_code code_;
};

enum class dtype : std::uint8_t { f32 = 1, f16 = 2, bf16 = 3 };
[[nodiscard]] std::size_t bytes_per_element(dtype type) noexcept;

// Bits of layer_result::flags().
inline constexpr std::uint8_t flag_exact = 0;
inline constexpr std::uint8_t flag_substituted = 1;
inline constexpr std::uint8_t flag_renormalised = 2;
inline constexpr std::uint8_t flag_dropped = 4;
inline constexpr std::uint8_t flag_refreshed = 16;  // tokens only: by other weights than the pinned stream began with

// Hidden states [count, width], row-major, of the caller: they must stay unchanged until the call returns.
struct row_view {
  dtype type{dtype::f32};
  std::size_t count{};
  std::size_t width{};
  const void* data{};
};

// A MoE block: its number in the checkpoint, or "encoder.3" / "decoder.1" in encoder-decoder models.
class layer_name {
 public:
  layer_name(int block);              // NOLINT(google-explicit-constructor): layer(3, ...) is the usual call
  layer_name(std::string_view name);  // NOLINT(google-explicit-constructor)
  layer_name(const std::string& name) : layer_name(std::string_view(name)) {}  // NOLINT(google-explicit-constructor)
  layer_name(const char* name) : layer_name(std::string_view(name)) {}         // NOLINT(google-explicit-constructor)
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  std::string text_;
};

struct call_options {
  degrade policy{degrade::wait};
  std::chrono::milliseconds timeout{30'000};  // more than 0, at most 10 minutes
};

// An answer. Owns the received bytes, which the spans point into; they live as long as the result, also when it is
// moved.
class layer_result {
 public:
  struct state;
  explicit layer_result(std::unique_ptr<const state> s) noexcept;
  layer_result(layer_result&&) noexcept;
  layer_result& operator=(layer_result&&) noexcept;
  ~layer_result();

  [[nodiscard]] std::size_t rows() const noexcept;
  [[nodiscard]] std::size_t width() const noexcept;
  [[nodiscard]] std::size_t experts_per_token() const noexcept;
  // Of output() and routed_output(): that of the request.
  [[nodiscard]] dtype type() const noexcept;

  // [rows, width]: the whole block, shared experts included; for cluster::experts the weighted sum.
  [[nodiscard]] std::span<const std::byte> output() const noexcept;
  // [rows, width]: the routed experts alone. May be the same bytes as output().
  [[nodiscard]] std::span<const std::byte> routed_output() const noexcept;
  // [rows, experts_per_token]: the router's choice, before capacity.
  [[nodiscard]] std::span<const std::int32_t> expert_ids() const noexcept;
  [[nodiscard]] std::span<const float> expert_weights() const noexcept;
  // [rows]: flag_exact, or bits of the other flags.
  [[nodiscard]] std::span<const std::uint8_t> flags() const noexcept;
  // Number of the cluster map that the router worked by.
  [[nodiscard]] std::uint64_t epoch() const noexcept;

  // output() as elements: float for f32, std::uint16_t for the bits of f16 and bf16. @pre sizeof(T) fits type().
  template <class T>
  [[nodiscard]] std::span<const T> output_as() const noexcept {
    const auto bytes = output();
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }

 private:
  std::unique_ptr<const state> state_;
};

struct connect_options {
  // Client addresses of routers, "tcp://HOST:PORT" or "ipc://PATH"; when one is lost, the next is used. Empty: those
  // of the context in `data_dir`.
  std::vector<std::string> addresses;
  // Where `troupe up` wrote its context. Empty: $TROUPE_DATA_DIR, else ~/.local/state/troupe/default.
  std::filesystem::path data_dir;
  // Lines "public Z85", "secret Z85", "server Z85"; mode 0600. Needed for TCP unless the context has it.
  std::filesystem::path key_file;
  std::chrono::milliseconds timeout{10'000};
};

class cluster {
 public:
  // Returns once a router has answered.
  [[nodiscard]] static cluster connect(const connect_options& options = {});
  cluster(cluster&&) noexcept;
  cluster& operator=(cluster&&) noexcept;
  ~cluster();

  // The whole MoE block of one layer: gate, routed experts, shared experts.
  [[nodiscard]] layer_result layer(const layer_name& layer, const row_view& hidden, const call_options& options = {});
  // For callers that have gated: output[t] = sum over k of weights[t, k] * expert ids[t, k] (hidden[t]).
  // `ids` and `weights` are [count, k]; id -1: no expert. degrade::substitute is refused: the caller chose.
  [[nodiscard]] layer_result experts(const layer_name& layer, const row_view& hidden, std::span<const std::int32_t> ids,
                                     std::span<const float> weights, const call_options& options = {});

  // Text, token by token as they come, on the caller's thread; `on_token` returns false to end the stream. When the
  // router dies, another one goes on with it: no token is lost and none comes twice. An exception of `on_token` ends
  // the stream and passes through. Other calls on this object wait until it is over.
  generate_summary generate(const prompt& asked, const generate_options& options,
                            const std::function<bool(const token&)>& on_token);
  // Text, or chat messages through the model's template, to token ids; and back.
  [[nodiscard]] token_ids tokenize(const prompt& text, bool add_special = false,
                                   std::chrono::milliseconds timeout = std::chrono::seconds{10});
  [[nodiscard]] std::string detokenize(const token_ids& tokens,
                                       std::chrono::milliseconds timeout = std::chrono::seconds{10});

  // JSON documents as `troupe status|node list|expert list -o json` print them (docs/cli.md).
  [[nodiscard]] std::string status(std::chrono::milliseconds timeout = std::chrono::seconds{10});
  [[nodiscard]] std::string nodes(std::chrono::milliseconds timeout = std::chrono::seconds{10});
  // Of one layer, or of all.
  [[nodiscard]] std::string list_experts(const std::optional<layer_name>& layer = std::nullopt,
                                         std::chrono::milliseconds timeout = std::chrono::seconds{10});
  [[nodiscard]] std::string model(std::chrono::milliseconds timeout = std::chrono::seconds{10});

 private:
  struct state;
  explicit cluster(std::unique_ptr<state> s) noexcept;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::client
