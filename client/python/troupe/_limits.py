"""Bounds and timeouts of the client, in bytes, counts and seconds."""

from __future__ import annotations

WIRE_MAJOR = 1
WIRE_MINOR = 1

# Envelope plus the five tensors of a layer reply is the largest message that exists.
PARTS_PER_MESSAGE_MAX = 6
ENVELOPE_BYTES_MAX = 8 << 20
# Used until a router has said its own limit in its Welcome.
TENSOR_BYTES_MAX = 256 << 20
ROWS_PER_REQUEST_MAX = 8192

REQUEST_TIMEOUT_DEFAULT = 30.0
REQUEST_TIMEOUT_MAX = 600.0
# The router keeps the deadline; this is how much longer the client waits for its verdict before it gives up itself.
ANSWER_GRACE = 1.0
INFO_TIMEOUT_DEFAULT = 10.0
GENERATE_TIMEOUT_DEFAULT = 600.0
GENERATE_TIMEOUT_MAX = 3600.0
TOP_LOGPROBS_MAX = 20
# Routers say every second that a stream is alive. Without a word for this long its router has lost it, or hangs.
STREAM_SILENCE_MAX = 10.0
# How long a stream looks for a router that takes it before its caller is told.
STREAM_HOMELESS_MAX = 30.0
# How long connect() tries to reach a router.
CONNECT_TIMEOUT_DEFAULT = 10.0
# One attempt at one router: transport, keys and Hello together.
HANDSHAKE_TIMEOUT = 3.0

# Pause after all routers have failed in a row, or before a stream is tried again; doubles up to the maximum. The
# second half of each is random, so that many clients do not come back in step.
RECONNECT_PAUSE_MIN = 0.05
RECONNECT_PAUSE_MAX = 1.0
# A request that lost this many connections is more likely their cause than their victim.
ATTEMPTS_PER_REQUEST_MAX = 16
# Pause before a request that is being executed already is asked for again.
IN_PROGRESS_PAUSE = 0.1

# Calls of one Cluster that may be under way at the same time.
CONNECTIONS_MAX = 64
REQUESTS_IN_FLIGHT_MAX = 1024
# Of these, how many are at the router at a time over one connection; the others wait here for their turn. Routers queue
# at most 64 answers per connection and drop what is beyond.
REQUESTS_SENT_MAX = 32

# Messages of a stream that its reader has not taken yet; a router ends streams that fall behind further.
MESSAGES_UNREAD_MAX = 16384

# Detects a frozen router. Long enough for a whole large tensor to pass a slow network in front of the answer.
HEARTBEAT_INTERVAL_MS = 1000
HEARTBEAT_TIMEOUT_MS = 5000
