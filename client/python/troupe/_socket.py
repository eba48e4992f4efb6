"""One ZeroMQ socket to one router, and what its monitor says. One thread at a time."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from troupe import _limits
from troupe._context import Credentials
from troupe.errors import Error, InvalidRequest, PermissionDenied

# libzmq's own reconnecting is off: it would hide that a request was lost with its connection.
_NEVER = -1
_EVENTS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


class Link:
    """A DEALER socket connected to ``address``, and its monitor. Both are sockets of ``context``'s class."""

    def __init__(self, context: Any, address: str, credentials: Optional[Credentials]) -> None:
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        self._curve = address.startswith("tcp://")
        try:
            self._configure(credentials)
            self.monitor = self.socket.get_monitor_socket(_EVENTS)
            self.socket.connect(address)
        except zmq.ZMQError as cause:
            self.close()
            raise InvalidRequest(f"cannot connect to {address} ({cause}); check the address") from cause
        except InvalidRequest:
            self.close()
            raise

    def _configure(self, credentials: Optional[Credentials]) -> None:
        socket = self.socket
        socket.linger = 0
        if "[" in self.address:
            socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, int(_limits.HANDSHAKE_TIMEOUT * 1000))
        socket.setsockopt(zmq.HANDSHAKE_IVL, int(_limits.HANDSHAKE_TIMEOUT * 1000))
        socket.setsockopt(zmq.MAXMSGSIZE, _limits.TENSOR_BYTES_MAX)
        socket.setsockopt(zmq.SNDHWM, 2 * _limits.REQUESTS_IN_FLIGHT_MAX)
        socket.setsockopt(zmq.RCVHWM, _limits.MESSAGES_UNREAD_MAX)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _limits.HEARTBEAT_INTERVAL_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _limits.HEARTBEAT_TIMEOUT_MS)
        if self._curve:
            if credentials is None:
                raise InvalidRequest(f"{self.address} needs keys; pass keys='FILE'")
            socket.curve_publickey = credentials.public.encode()
            socket.curve_secretkey = credentials.secret.encode()
            socket.curve_serverkey = (credentials.server_key(self.address) or "").encode()

    def loss(self, event_parts: Any) -> Tuple[str, Optional[Error]]:
        """What a monitor message means: the reason, and the refusal when trying again would be in vain."""
        event = parse_monitor_message(event_parts)["event"]
        if event & _REFUSALS:
            text = f"{self.address} does not accept this key; 'troupe keys list' shows which it does"
            return text, PermissionDenied(text)
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and self._curve:
            return f"{self.address} broke off the key exchange; is its public key the right one?", None
        if event == zmq.EVENT_DISCONNECTED:
            return f"the connection to {self.address} was lost", None
        return f"nobody answers at {self.address}", None

    def close(self) -> None:
        """Safe to call twice."""
        if self.socket.closed:
            return
        monitor = getattr(self, "monitor", None)
        if monitor is not None:
            self.socket.disable_monitor()
            monitor.close(0)
        self.socket.close(0)
