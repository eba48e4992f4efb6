// Every bound and every timeout of the project, with its unit and its reason. Ties between them are asserted.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace troupe::limits {

using namespace std::chrono_literals;

inline constexpr std::size_t kib = 1024;
inline constexpr std::size_t mib = 1024 * kib;
inline constexpr std::size_t gib = 1024 * mib;

// -- wire ---------------------------------------------------------------------------------------------------------

// Bumped in the major number when an old peer could misread a new message, in the minor number otherwise.
inline constexpr std::uint8_t wire_version_major = 1;
inline constexpr std::uint8_t wire_version_minor = 0;
// Envelope plus the five tensors of a layer reply is the largest message that exists.
inline constexpr std::size_t parts_per_message_max = 6;
// A cluster map of 20,000 experts with two replicas each takes about 1.2 MiB; nothing else comes near.
inline constexpr std::size_t envelope_bytes_max = 8 * mib;
// 4,096 rows of 8,192 f32 values are 128 MiB; anything larger is split by the caller.
inline constexpr std::size_t tensor_bytes_max = 256 * mib;
inline constexpr std::size_t tensor_rank_max = 4;
// Protobuf nesting. Our deepest message has 5 levels.
inline constexpr int envelope_depth_max = 16;

// -- requests -----------------------------------------------------------------------------------------------------

inline constexpr std::uint32_t rows_per_request_max = 8192;
inline constexpr std::uint32_t experts_per_token_max = 64;
// Rows and bytes admitted and not yet answered, per router and per expert host. Past it: overloaded, at once.
inline constexpr std::uint64_t inflight_rows_max = 65'536;
inline constexpr std::uint64_t inflight_bytes_max = 2 * gib;
inline constexpr std::chrono::milliseconds request_timeout_default = 30s;
inline constexpr std::chrono::milliseconds request_timeout_max = 600s;
// Answers kept for clients that repeat a request id (faults.md W12).
inline constexpr std::size_t replay_cache_bytes_max = 64 * mib;
inline constexpr std::chrono::seconds replay_cache_age_max = 30s;
// How often one part of a request is sent again to another replica before its policy decides.
inline constexpr std::uint32_t attempts_per_call_max = 16;

// -- cluster ------------------------------------------------------------------------------------------------------

inline constexpr std::size_t nodes_max = 1024;
inline constexpr std::size_t layers_max = 1024;
inline constexpr std::size_t experts_per_layer_max = 4096;
inline constexpr std::size_t replicas_per_expert_max = 64;

inline constexpr std::chrono::milliseconds heartbeat_interval = 200ms;
inline constexpr std::chrono::milliseconds heartbeat_suspect_after = 1s;
inline constexpr std::chrono::milliseconds heartbeat_lost_after = 3s;
// A node that was lost must be heard without a gap for this long before it gets work again (faults.md N9).
inline constexpr std::chrono::milliseconds heartbeat_readmit_after = 2s;
inline constexpr std::chrono::milliseconds handshake_timeout = 3s;
inline constexpr std::chrono::milliseconds connect_timeout = 2s;
inline constexpr std::chrono::milliseconds map_ack_timeout = 2s;
inline constexpr std::chrono::milliseconds shutdown_grace = 10s;
static_assert(heartbeat_interval * 4 <= heartbeat_suspect_after, "one lost heartbeat must not make a suspect");
static_assert(heartbeat_suspect_after < heartbeat_lost_after);

// -- files --------------------------------------------------------------------------------------------------------

// The reference safetensors parser refuses larger headers.
inline constexpr std::size_t safetensors_header_bytes_max = 100'000'000;
inline constexpr std::size_t config_json_bytes_max = 4 * mib;
inline constexpr int json_depth_max = 64;

// -- HTTP ---------------------------------------------------------------------------------------------------------

inline constexpr std::size_t http_header_bytes_max = 16 * kib;
inline constexpr std::size_t http_json_body_bytes_max = 8 * mib;
inline constexpr std::size_t http_layer_body_bytes_max = tensor_bytes_max + mib;
inline constexpr std::size_t http_connections_max = 1024;
inline constexpr std::chrono::seconds http_header_timeout = 10s;
inline constexpr std::chrono::seconds http_idle_timeout = 60s;

}  // namespace troupe::limits
