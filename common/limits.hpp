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
inline constexpr std::uint8_t wire_version_minor = 1;
// What a process calls itself in handshakes, /version and --version.
inline constexpr const char* software = "troupe/0.1.0";
// Envelope plus the five tensors of a layer reply is the largest message that exists.
inline constexpr std::size_t parts_per_message_max = 6;
// A cluster map of 20,000 experts with two replicas each takes about 1.2 MiB; nothing else comes near.
inline constexpr std::size_t envelope_bytes_max = 8 * mib;
// 4,096 rows of 8,192 f32 values are 128 MiB; anything larger is split by the caller.
inline constexpr std::size_t tensor_bytes_max = 256 * mib;
inline constexpr std::size_t tensor_rank_max = 4;
// Protobuf nesting. Our deepest message has 5 levels.
inline constexpr int envelope_depth_max = 16;
// Whole messages that libzmq queues per peer and direction before a send is refused. Our own senders are bounded in
// bytes by admission (inflight_bytes_max); this bounds the queue when a peer stops reading.
inline constexpr int queued_messages_max = 64;
// ZMTP's own heartbeats notice a vanished machine on every link; ours (below) notice a hung process.
inline constexpr std::chrono::milliseconds link_heartbeat_interval = 500ms;
inline constexpr std::chrono::milliseconds link_heartbeat_timeout = 2s;
inline constexpr std::chrono::milliseconds reconnect_interval_min = 100ms;
inline constexpr std::chrono::milliseconds reconnect_interval_max = 5s;
// How long bytes may stay unacknowledged by the peer's kernel before the link is dropped.
inline constexpr std::chrono::milliseconds tcp_retransmit_timeout = 5s;
// Connection events that wait for the thread which watches a socket; past it libzmq's I/O thread waits for that thread.
inline constexpr int link_events_max = 100'000;
// How long closing a socket may wait until its last messages have left.
inline constexpr std::chrono::milliseconds linger = 500ms;

// Threads that wait for sockets look around this often even when nothing wakes them.
inline constexpr std::chrono::milliseconds idle_poll = 1s;
inline constexpr std::size_t key_file_bytes_max = 4 * kib;
// 10,000 keys.
inline constexpr std::size_t authorized_file_bytes_max = mib;
// One link's shared memory: room for the rows of several full calls and their answers.
inline constexpr std::size_t segment_bytes_max = gib;

// -- requests -----------------------------------------------------------------------------------------------------

inline constexpr std::uint32_t rows_per_request_max = 8192;
inline constexpr std::uint32_t experts_per_token_max = 64;
// What callers are told to wait before they try again.
inline constexpr std::chrono::milliseconds retry_hint = 100ms;
// Rows and bytes admitted and not yet answered, per router and per expert host. Past it: overloaded, at once.
inline constexpr std::uint64_t inflight_rows_max = 65'536;
inline constexpr std::uint64_t inflight_bytes_max = 2 * gib;
// Calls in flight per expert host, so that thousands of one-row calls are bounded too; about 1 KiB each.
inline constexpr std::size_t inflight_calls_max = 4096;
// Names of answered calls that an expert host still recognises when they are repeated (faults.md W12); 24 bytes each.
inline constexpr std::size_t answered_calls_remembered = 16'384;
// Rows that an expert host merges into one job: beyond it a batch is bound by arithmetic and merging only adds waiting.
inline constexpr std::uint32_t merged_batch_rows_max = 1024;
inline constexpr std::chrono::milliseconds request_timeout_default = 30s;
inline constexpr std::chrono::milliseconds request_timeout_max = 600s;
// Answers kept for clients that repeat a request id (faults.md W12).
inline constexpr std::size_t replay_cache_bytes_max = 64 * mib;
inline constexpr std::chrono::seconds replay_cache_age_max = 30s;
// How often one part of a request is sent again to another replica before its policy decides.
inline constexpr std::uint32_t attempts_per_call_max = 16;
// A call is given up for another replica after 4 x what its host usually takes, within these bounds.
inline constexpr std::chrono::milliseconds attempt_timeout_floor = 250ms;
inline constexpr std::chrono::milliseconds attempt_timeout_default = 2s;
// A host that did not answer in time is asked last for this long, unless something is heard of it.
inline constexpr std::chrono::milliseconds suspect_host_for = 5s;
// Calls that are sent to other hosts too: as a share of first calls, how many at once, and not before so long.
inline constexpr double hedge_share_max = 0.05;
inline constexpr double hedge_burst_max = 64;
inline constexpr std::chrono::milliseconds hedge_after_min = 5ms;
// Slow expert hosts (node_latency.hpp): how often they are looked for, over which time, and what counts at least.
inline constexpr std::chrono::milliseconds node_pace_check_interval = 250ms;
inline constexpr std::chrono::milliseconds node_pace_window = 2s;
inline constexpr std::chrono::milliseconds node_slow_excess_min = 1ms;
// One call that waits this long says enough about a host.
inline constexpr std::chrono::milliseconds node_silence_telling = 500ms;
// A host that gets less work than others is asked for one expert about this often (half to one and a half times).
inline constexpr std::chrono::milliseconds node_probe_interval = 200ms;
// A host that failed or refused a request is not asked again by it for min x 2^tries, at most max, with jitter of half.
inline constexpr std::chrono::milliseconds retry_backoff_min = 20ms;
inline constexpr std::chrono::milliseconds retry_backoff_max = 1s;
// Retries after refusals and time-outs, as a share of first attempts; with a burst, and a trickle when idle.
inline constexpr double retry_share_max = 0.1;
inline constexpr double retry_burst_max = 256;
inline constexpr double retries_per_second_min = 100;
inline constexpr std::chrono::milliseconds retry_budget_pause = 100ms;
// A router's link to a host that failed is made anew after a pause that doubles within these bounds.
inline constexpr std::chrono::milliseconds link_pause_min = 50ms;
inline constexpr std::chrono::milliseconds link_pause_max = 1s;
// A host that has not answered a call this long after its deadline has lost it: the link is made anew.
inline constexpr std::chrono::milliseconds answer_overdue_after = 10s;
inline constexpr std::chrono::milliseconds answer_overdue_check = 2s;
// Shared memory of one link: several calls of 512 rows of 2,048 bf16 values both ways. Larger calls go over the socket.
inline constexpr std::size_t link_segment_bytes = 16 * mib;
// Requests from HTTP threads that wait for the router's thread.
inline constexpr std::size_t router_inbox_max = 4096;
// Clients that have said hello to a router and are remembered; past it the longest silent one must say it again.
inline constexpr std::size_t client_sessions_max = 16'384;
inline constexpr std::size_t client_id_bytes_max = 128;
// Ended requests that are remembered to tell late answers from foreign ones.
inline constexpr std::size_t ended_requests_max = 4096;

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
// Pause of a node between two attempts to reach its coordinator: first, doubled each time, longest. Short, since after
// a restart the coordinator waits only restart_grace for nodes to report what they hold.
inline constexpr std::chrono::milliseconds coordinator_retry_min = 50ms;
inline constexpr std::chrono::milliseconds coordinator_retry_max = 1s;
// After a refusal that the same request cannot change.
inline constexpr std::chrono::milliseconds refused_retry = 5s;
inline constexpr std::chrono::milliseconds coordinator_query_timeout = 5s;
// Messages of a node that wait for its link to the coordinator.
inline constexpr std::size_t link_queue_max = 256;
inline constexpr std::chrono::milliseconds shutdown_grace = 10s;
static_assert(heartbeat_interval * 4 <= heartbeat_suspect_after, "one lost heartbeat must not make a suspect");
static_assert(heartbeat_suspect_after < heartbeat_lost_after);

// -- coordinator --------------------------------------------------------------------------------------------------

// A pass compares wanted with seen at least this often; events bring it forward.
inline constexpr std::chrono::milliseconds pass_interval = 500ms;
// Maps are gathered for this long: a thousand experts becoming ready one by one are not a thousand epochs.
inline constexpr std::chrono::milliseconds publish_interval = 50ms;
// Bundles that one node is asked to load at a time: one is read while another is packed.
inline constexpr std::uint32_t loads_per_node_max = 4;
// Replicas on their way to an emptier node only for balance, whole cluster.
inline constexpr std::uint32_t balance_moves_max = 4;
// A load or free that shows no trace in the inventory is asked for again.
inline constexpr std::chrono::milliseconds order_resend_after = 1s;
// A load that was called off before any trace of it was seen may still arrive this late; until then its slot is not
// given away. Longer than a node may be silent without being lost.
inline constexpr std::chrono::milliseconds order_lifetime_max = 5s;
static_assert(heartbeat_lost_after < order_lifetime_max);
// A node that has nothing under way is asked for its inventory this often, should a report have been lost.
inline constexpr std::chrono::milliseconds inventory_refresh = 10s;
// A load that has not ended by then counts as failed: the largest bundles take seconds.
inline constexpr std::chrono::milliseconds load_timeout = 300s;
// After a failed load the same node is not asked for that expert again: first pause, doubled each time, longest pause.
inline constexpr std::chrono::milliseconds load_retry_min = 1s;
inline constexpr std::chrono::milliseconds load_retry_max = 60s;
// How long the first placement waits for expert nodes that were announced but have not joined.
inline constexpr std::chrono::milliseconds first_placement_grace = 15s;
// After a restart, how long nodes may take to report before what they held counts as lost.
inline constexpr std::chrono::milliseconds restart_grace = 5s;
// A node that is lost this often within the window is left out for the pause (faults.md P8).
inline constexpr std::size_t crash_loop_losses = 5;
inline constexpr std::chrono::milliseconds crash_loop_window = 30s;
inline constexpr std::chrono::milliseconds quarantine_pause = 60s;
// Lost expert nodes stay in the list until an operator removes them; lost routers, which hold nothing, this long.
inline constexpr std::chrono::milliseconds lost_router_kept = 600s;
// Messages that wait for the coordinator's socket thread, which never waits itself; connections that it remembers.
inline constexpr std::size_t control_queue_max = 65'536;
inline constexpr std::size_t control_sessions_max = 4 * nodes_max;
// A write of the coordinator's state that takes longer counts as failed.
inline constexpr std::chrono::milliseconds store_write_timeout = 30s;
// After a failed write of its state the coordinator tries again.
inline constexpr std::chrono::milliseconds store_retry_after = 1s;
inline constexpr std::chrono::milliseconds store_busy_timeout = 5s;
// Answers of admin commands kept for repeated ids, and events kept for `troupe events`.
inline constexpr std::size_t admin_commands_kept_max = 1024;
inline constexpr std::size_t events_kept_max = 1024;
// Epochs that `placement history` tells of, and those that `placement rollback` may go back to. On disk an epoch takes
// its text and about 150 bytes per expert that it changed.
inline constexpr std::size_t placement_epochs_kept_max = 256;
inline constexpr std::size_t placement_maps_kept_max = 64;
static_assert(placement_maps_kept_max <= placement_epochs_kept_max);
// Operations at a time (each holds a slot or waits for one), and ended ones kept for `troupe op list`.
inline constexpr std::size_t operations_running_max = 64;
inline constexpr std::size_t operations_kept_max = 256;
// A node that fails to load the expert so often in one operation: the operation is rolled back.
inline constexpr std::uint32_t operation_load_failures_max = 3;
// The window of `share` in `expert list`, and its resolution.
inline constexpr std::chrono::milliseconds traffic_window = 60s;
inline constexpr std::chrono::hours prune_window{24};
// What pruning has seen is written so often in one window, as a restart of the coordinator goes on from there; one that
// took longer than this part of the window begins it anew.
inline constexpr int prune_watch_records = 96;
inline constexpr int prune_gap_share = 24;
static_assert(prune_watch_records > prune_gap_share, "a crash just before the next record costs no window");
// What the policy pruned comes back when rows miss it with so many times the share below which it went.
inline constexpr double prune_return_factor = 2;
// Policies look at the cluster so often, judge a layer by at least so many rows, and have so many operations under way.
inline constexpr std::chrono::milliseconds policy_interval = 2s;
inline constexpr std::uint64_t policy_rows_min = 1024;
inline constexpr std::size_t policy_operations_max = 4;
// What balancing must take away from a layer's imbalance for a move to be worth its copy.
inline constexpr double balance_gain_min = 0.05;
inline constexpr std::size_t traffic_window_buckets = 6;
// Experts that rows choose together (expert_pairs.hpp): pairs that one list of a layer has, 4 for each of 256 experts;
// the largest layer of which they are counted, whose table takes 512 KiB; how many reports of a router one list of a
// layer spans, so that each report has few layers; and how many companions of an expert people see.
inline constexpr std::size_t expert_pairs_max = 1024;
inline constexpr std::uint32_t pair_experts_max = 512;
inline constexpr std::uint32_t pair_reports = 20;
inline constexpr std::size_t companions_max = 8;
static_assert(layers_max / pair_reports * (expert_pairs_max + pair_experts_max) * 20 < envelope_bytes_max,
              "the pairs of the layers whose turn it is fit into one report");
// Of the fair share of its layer's load: an expert with less is cold.
inline constexpr double cold_share = 0.05;
// A cold expert is warm again from so many times that share on, so that one at the border does not come and go.
inline constexpr double cold_warm_factor = 2;
// Rows per expert that a layer is judged by: of a fair share of so many, chance leaves an expert under 5 % never.
inline constexpr std::uint64_t cold_rows_per_expert_min = 100;
// What routers keep of the inputs of cold experts: rows per expert that may be asked for, bytes per router, and what a
// row counts in training (the original design's number).
inline constexpr std::uint32_t cold_reservoir_rows_max = 65'536;
inline constexpr std::size_t cold_reservoir_bytes_max = 64 * mib;
static_assert(cold_reservoir_bytes_max <= tensor_bytes_max, "what was kept of one expert travels in one message");
inline constexpr float cold_sample_weight = 3;
// The largest gate probability that exploration may cost a row: an expert with more of it is not a matter of chance.
inline constexpr double explore_bias_max = 0.2;
// A cold expert that got no other weights for so long is told of.
inline constexpr std::chrono::hours cold_stale_after{48};
// Replicas that a scheduled refresh may move at a time; how many times `refresh history` knows, and the cold experts
// that each of them names.
inline constexpr std::uint32_t scheduled_moves_max = 10'000;
inline constexpr std::size_t scheduled_runs_kept_max = 64;
inline constexpr std::size_t scheduled_run_experts_max = 64;
// How often the batches that a schedule has counted are written: what a crash of the coordinator may lose of them.
inline constexpr std::chrono::seconds schedule_count_interval{60};
// How long replicas of a version that is served no more are kept for texts that are pinned to it: as long as a text
// usually may take (generation_timeout_default). And how many such versions of a layer a router knows the places of.
inline constexpr std::chrono::seconds pinned_versions_kept_max = 600s;
inline constexpr std::size_t held_versions_max = 16;
// Events that one look may write; a text that changes can make a thousand experts cold at once.
inline constexpr std::size_t cold_events_per_look_max = 32;
static_assert(coordinator_retry_max * 3 <= restart_grace, "a restarted coordinator must hear of every node in time");
static_assert(heartbeat_lost_after < restart_grace, "a dead router must be known as dead before a slot is freed");

// -- comparing another version of an expert, on rows that it was asked for ------------------------------------------

inline constexpr std::size_t live_rows_max = 16;  // per expert
inline constexpr std::size_t live_rows_bytes_max = 8 * mib;
inline constexpr std::chrono::milliseconds live_row_interval = 100ms;

// -- transfers of bundles between expert nodes ---------------------------------------------------------------------

// Large enough that the round trip does not count, small enough that a lost one is cheap.
inline constexpr std::size_t peer_chunk_bytes = 2 * mib;
// Chunks asked for and not yet here: fills a 10 Gbit/s link at 10 ms.
inline constexpr std::size_t peer_chunks_outstanding = 6;
inline constexpr std::chrono::milliseconds peer_chunk_timeout = 5s;
// A source is given up after so many chunks without progress; the next source goes on where it stopped.
inline constexpr std::uint32_t peer_timeouts_max = 3;
// Whole bundles that a node keeps in memory to answer chunks; further fetches are told to come back.
inline constexpr std::size_t peer_bundles_open_max = 2;
inline constexpr std::chrono::milliseconds peer_bundle_idle = 2s;
// Nodes that one node stays connected to, or keeps memory of, between two bundles.
inline constexpr std::size_t peer_links_max = 8;
// For an answer to the greeting over a connection that was kept; without one another is opened.
inline constexpr std::chrono::milliseconds peer_link_check = 500ms;
inline constexpr std::chrono::milliseconds node_stats_interval = 1s;

// -- files --------------------------------------------------------------------------------------------------------

// The reference safetensors parser refuses larger headers.
inline constexpr std::size_t safetensors_header_bytes_max = 100'000'000;
inline constexpr std::size_t config_json_bytes_max = 4 * mib;
inline constexpr int json_depth_max = 64;

// -- tokenizer ----------------------------------------------------------------------------------------------------

// The largest published ones, of 262,144 tokens, take about 33 MiB; read only once.
inline constexpr std::size_t tokenizer_file_bytes_max = 64 * mib;
// Numbers of tokens are below it: eight times the largest published vocabulary.
inline constexpr std::uint32_t token_numbers_max = 1U << 21;
inline constexpr std::size_t regex_bytes_max = 16 * kib;
// Steps and memory of one search; published patterns need a few steps per byte.
inline constexpr std::uint32_t regex_steps_max = 20'000'000;
inline constexpr std::size_t regex_memory_max = 64 * mib;
// How many times as long the steps of a tokenizer may make a text together; published ones need at most 12.
inline constexpr double text_growth_max = 256;
// -- chat templates -----------------------------------------------------------------------------------------------

// Chat templates (published ones have at most 30 KB) are the operator's, the messages that they go through anybody's.
// Nesting of the source, and the height of one expression.
inline constexpr std::size_t chat_template_bytes_max = 256 * kib;
inline constexpr std::size_t chat_template_depth_max = 64;
inline constexpr std::size_t chat_template_expression_height_max = 256;
// What is being evaluated inside of one another, macros that call themselves included: about 1 KiB of stack each.
inline constexpr std::size_t chat_template_evaluation_depth_max = 1000;
// A thousand messages take about 100,000 steps; this many take a quarter of a second.
inline constexpr std::uint64_t chat_template_steps_max = 2'000'000;
// Values in one list or dict, 64 bytes of text counted as one; and how deep they are nested (JSON: 64).
inline constexpr std::uint64_t chat_template_value_weight_max = 1'000'000;
inline constexpr std::uint32_t chat_template_value_height_max = 100;
// Texts made on the way: some copies of each message; and the text in the end.
inline constexpr std::uint64_t chat_template_bytes_made_max = 256 * mib;
inline constexpr std::size_t chat_template_output_bytes_max = 16 * mib;

// -- simulation ----------------------------------------------------------------------------------------------------

// Rows of a file with loads: 32 bytes each; 58 layers of 256 experts for 3,000 steps.
inline constexpr std::size_t load_trace_rows_max = 50'000'000;
// Steps of a simulation with synthetic loads, about 100 bytes each; slots that it prints with --show-placement.
inline constexpr std::uint32_t simulated_steps_max = 1'000'000;
inline constexpr std::uint64_t shown_slots_max = 10'000'000;

// -- log ----------------------------------------------------------------------------------------------------------

// Lines that wait for the disk; past it the oldest are dropped.
inline constexpr std::size_t log_queue_lines_max = 8192;
inline constexpr std::size_t log_file_bytes_max = 16 * mib;
inline constexpr std::size_t log_files_max = 4;
inline constexpr std::chrono::seconds log_flush_interval = 1s;
// What one place in the code may write: at once, then one line per interval.
inline constexpr std::uint32_t log_site_burst = 10;
inline constexpr std::chrono::milliseconds log_site_interval = 1s;

// -- compute ------------------------------------------------------------------------------------------------------

// More threads than any one socket has; a typo must not start a million.
inline constexpr std::uint32_t device_threads_max = 512;
inline constexpr std::uint32_t device_slots_max = 1U << 20;
// Connecting two GPUs, or moving one bundle between them: the first connection of a process takes NCCL seconds.
inline constexpr std::chrono::milliseconds gpu_link_timeout = 15s;
// Scratch of one device: rows of one pass are chosen so that it stays below the larger of this and a 64th of the arena
// (the resident set of an expert node is promised to be within 5 % + 64 MiB of its bundles).
inline constexpr std::size_t device_scratch_bytes_min = 24 * mib;
inline constexpr std::size_t device_scratch_arena_share = 64;
// Rows of one expert in one product; past it the weights are read again, which the arithmetic hides.
inline constexpr std::uint32_t rows_per_product_max = 256;
// oneDNN primitives kept per process (about 100 KB of generated code each); the least recently used one goes.
inline constexpr std::size_t cached_products_max = 128;

// -- HTTP ---------------------------------------------------------------------------------------------------------

inline constexpr std::size_t http_header_bytes_max = 16 * kib;
inline constexpr std::size_t http_json_body_bytes_max = 8 * mib;
inline constexpr std::size_t http_layer_body_bytes_max = tensor_bytes_max + mib;
inline constexpr std::size_t http_connections_max = 1024;
inline constexpr std::chrono::seconds http_header_timeout = 10s;
inline constexpr std::chrono::seconds http_idle_timeout = 60s;
// A whole body; each piece of it may take http_header_timeout.
inline constexpr std::chrono::seconds http_body_timeout = 120s;
inline constexpr std::chrono::seconds http_write_timeout = 60s;
// What one streamed answer may keep waiting for a client that reads slowly, and how long one write of it may take; past
// either the client is cut off (faults.md H13).
inline constexpr std::size_t http_stream_buffer_bytes_max = mib;
inline constexpr std::chrono::seconds http_stream_write_timeout = 10s;
// Proxies close connections that are silent for 30 or 60 s: a comment goes out when a stream has nothing to say.
inline constexpr std::chrono::seconds http_ping_interval = 10s;
// How long a connection that is to be closed is read on, so that the client sees the answer and not a reset.
inline constexpr std::chrono::seconds http_linger_timeout = 2s;
inline constexpr std::size_t api_key_bytes_min = 8;
// Bodies of all requests that are being received or handled. Past it: 429.
inline constexpr std::size_t http_body_bytes_total_max = gib;
static_assert(http_layer_body_bytes_max <= http_body_bytes_total_max);

// -- generation ---------------------------------------------------------------------------------------------------

// Tokens per block of the key-value cache: small enough to waste little, large enough for long runs of memory.
inline constexpr std::uint32_t kv_block_tokens = 16;
// Alternatives per token that an answer may list; OpenAI allows 20.
inline constexpr std::uint32_t top_logprobs_max = 20;
// n, and how many answers one request may ask for altogether (prompts x n).
inline constexpr std::uint32_t choices_max = 16;
inline constexpr std::size_t answers_per_request_max = 64;
// What /v1/completions gives when the client names no length; OpenAI's number. Chats may fill the context.
inline constexpr std::uint32_t completion_tokens_default = 16;
inline constexpr std::size_t stop_strings_max = 16;
inline constexpr std::size_t stop_string_bytes_max = kib;
inline constexpr std::size_t stop_token_ids_max = 64;
inline constexpr std::size_t logit_bias_entries_max = 1024;
// What sampling may be asked for, the same at every door.
inline constexpr double temperature_max = 2;
inline constexpr double repetition_penalty_min = 0.01;
inline constexpr double repetition_penalty_max = 10;
inline constexpr double added_penalty_max = 2;  // presence and frequency, and as much below 0
inline constexpr double logit_bias_max = 100;   // and as much below 0
inline constexpr std::size_t chat_messages_max = 4096;
// Names of unknown fields that a line of the log lists.
inline constexpr std::size_t ignored_fields_logged_max = 8;
// Requests for text that wait to be turned into tokens; one of the largest takes about a second.
inline constexpr std::size_t text_requests_waiting_max = 256;
// Answers in progress for one API key; a flood of one leaves the others their share (faults.md O3).
inline constexpr std::uint32_t answers_per_key_max = 128;
// Texts that a router has accepted and not ended, running and waiting.
inline constexpr std::uint32_t generations_open_max = 1024;
// A text whose expert has no replica is tried again after this.
inline constexpr std::chrono::milliseconds stalled_text_pause = 100ms;
// A step waits so long for the experts of one layer; then its texts are tried again, each by its own policy.
inline constexpr std::chrono::seconds experts_wait_max = 10s;
// The engine's thread looks at its counters at least this often.
inline constexpr std::chrono::seconds generation_refresh_interval = 1s;
// Memory for keys and values when --kv-memory is not given: room for so many texts of full length, at most so much.
inline constexpr std::uint64_t kv_default_texts = 32;
inline constexpr std::uint64_t kv_default_bytes_max = 2 * gib;
// A generation may last this long when the client names no other time; the second is the longest it may ask for.
inline constexpr std::chrono::seconds generation_timeout_default = 600s;
inline constexpr std::chrono::seconds generation_timeout_max = 3600s;
static_assert(pinned_versions_kept_max == generation_timeout_default);
// One step computes at most this many tokens of prompts: enough that products run at full speed, few enough that
// decoding, which takes turns with it, goes on smoothly.
inline constexpr std::uint32_t prefill_step_tokens = 512;
// Half of such a step is dealt out in pieces of this size, so that a short prompt moves on beside a long one.
inline constexpr std::uint32_t prefill_turn_tokens = 64;
static_assert(prefill_turn_tokens * 2 <= prefill_step_tokens);
// Sequences that hold KV memory or are about to: the rows of the largest decode step. One client may have half of them.
inline constexpr std::uint32_t sequences_running_max = 256;
inline constexpr std::uint32_t sequences_running_per_client_max = sequences_running_max / 2;
// Sequences and prompt tokens (4 bytes each) that wait for a place; past it: overloaded. One client may have half.
inline constexpr std::uint32_t sequences_waiting_max = 1024;
inline constexpr std::uint32_t sequences_waiting_per_client_max = sequences_waiting_max / 2;
inline constexpr std::uint64_t prompt_tokens_waiting_max = 4'194'304;
inline constexpr std::uint64_t prompt_tokens_waiting_per_client_max = prompt_tokens_waiting_max / 2;
// A sequence that waited in vain for an expert this long gives up its place and its blocks when others wait for them.
// Longer than it takes to know that a host is lost, so that a short outage costs no recomputing.
inline constexpr std::chrono::milliseconds stall_patience = 5s;
static_assert(heartbeat_lost_after < stall_patience);
// What a refused client is told to wait: an estimate within these bounds.
inline constexpr std::chrono::seconds generation_retry_min = 1s;
inline constexpr std::chrono::seconds generation_retry_max = 60s;
// A prompt as text or messages: room for a context of about a million tokens.
inline constexpr std::size_t prompt_bytes_max = 4 * mib;
// Prompts that wait to be put into tokens, and their bytes together. Past it: overloaded.
inline constexpr std::size_t prompts_waiting_max = 1024;
inline constexpr std::size_t prompts_waiting_bytes_max = 64 * mib;
// Streams of one router over ZeroMQ, waiting and running.
inline constexpr std::size_t client_streams_max = 4096;
// A stream that has nothing to tell says that it is alive: clients notice a hung router, the router a client that left.
inline constexpr std::chrono::milliseconds stream_alive_interval = 1s;
// One message of events to one client; more than a step ever brings to one.
inline constexpr std::size_t stream_message_bytes_max = mib;

}  // namespace troupe::limits
