"""The client's side of the conversation with a list of routers: no sockets, no clock, no threads.

A *shell* (client.py with blocking sockets, aio.py with asyncio) owns one socket at a time and keeps this loop going:

    session.submit(id, request, now)            what the caller wants
    for command in session.take_commands():     Connect, Send or Close: to be done in this order
    session.on_message / on_lost / on_time      what happened meanwhile
    session.take_streamed()                     (id, tokens) of streams that go on
    session.take_finished()                     (id, result or Error) of calls that are over
    session.wake_at()                           when on_time must be called if nothing else happens

States of the link:

    idle --submit--> greeting --Welcome--> ready            greeting: connected as far as we know, Hello is sent
      ^                 |  ^                 | lost
      |            lost |  | next address    v
      |                 v  |                 |
      +---close       waiting <--------------+               waiting: all addresses failed in a row, pause

A request survives the loss of its connection: it is sent again under the same id, to the next router, until its
deadline. Routers recognise (client_id, request id), and the result of a request does not depend on who computes it.
A stream is sent again with the tokens that have come, and so goes on where it was (_streams.py). It is also moved when
its router says that it leaves, or says nothing at all.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from troupe import _limits, _streams, _wire
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2
from troupe._requests import Request
from troupe._streams import GenerateRequest
from troupe._version import SOFTWARE
from troupe.errors import Error, InvalidRequest, Timeout, Unavailable, from_wire, make_error

# Loses the connection but may be answered differently by the next router, or later.
_RETRY_CODES = frozenset({common_pb2.HANDSHAKE_REQUIRED, common_pb2.IN_PROGRESS, common_pb2.CORRUPT})


@dataclass(frozen=True)
class Connect:
    """Drop the socket, if any, and open one to this router."""

    address: str


@dataclass(frozen=True)
class Send:
    """Send one multipart message on the open socket."""

    parts: List[Any]


@dataclass(frozen=True)
class Close:
    """Drop the socket."""


Command = Union[Connect, Send, Close]


class _Link(enum.Enum):
    IDLE = "idle"
    GREETING = "greeting"
    READY = "ready"
    WAITING = "waiting"


@dataclass
class _Call:
    request: Request
    deadline: float
    begun: float
    sent: bool = False
    attempts: int = 0
    send_at: float = 0.0  # not before
    heard_at: float = 0.0  # streams: when it was sent, or the router's last word of it


class Session:
    """Not thread-safe: the shell calls it from one thread (or one task) at a time. Times are steady seconds."""

    def __init__(
        self,
        addresses: Sequence[str],
        client_id: str,
        cluster_id: str = "",
        jitter: Callable[[], float] = random.random,  # in [0, 1)
    ) -> None:
        if not addresses:
            raise InvalidRequest("no router address; pass one, or start a cluster with 'troupe up'")
        self.cluster_id = cluster_id
        self.stray_answers = 0  # answers to nobody: late after a cancel, or doubled
        self._addresses = list(addresses)
        self._client_id = client_id
        self._jitter = jitter
        self._link = _Link.IDLE
        self._homeless_since: Optional[float] = None  # no router is ready
        self._current = 0  # index of the address in use
        self._failures = 0  # attempts in a row that did not become ready
        self._refusals: Dict[int, Error] = {}  # addresses that will not take us, whatever we repeat
        self._last_failure = "no attempt was made"
        self._link_deadline = 0.0  # greeting: give up the attempt; waiting: end of the pause
        self._calls: Dict[int, _Call] = {}
        self._commands: List[Command] = []
        self._streamed: List[Tuple[int, List[_streams.Token]]] = []
        self._finished: List[Tuple[int, Any]] = []
        self._rows_max = _limits.ROWS_PER_REQUEST_MAX
        self._tensor_bytes_max = _limits.TENSOR_BYTES_MAX

    # -- what the shell tells ------------------------------------------------------------------------------------------

    def submit(self, request_id: int, request: Request, now: float) -> None:
        """Starts a call; its end comes out of take_finished()."""
        if len(self._calls) >= _limits.REQUESTS_IN_FLIGHT_MAX:
            limit = _limits.REQUESTS_IN_FLIGHT_MAX
            error = make_error("overloaded", f"{limit} calls are under way on one connection; wait for some of them")
            self._finished.append((request_id, error))
            return
        self._calls[request_id] = _Call(request, now + request.timeout, begun=now)
        self._refusals.clear()
        if self._link is _Link.IDLE:
            self._connect(now)
        elif self._link is _Link.READY:
            self._send_due(now)

    def cancel(self, request_id: int) -> None:
        """Forgets a call whose caller went away; a stream is ended at its router. A late answer counts as stray."""
        call = self._calls.pop(request_id, None)
        if call is not None and call.request.is_stream and call.sent and self._link is _Link.READY:
            self._commands.append(Send(_streams.cancel_parts(request_id, self._client_id)))

    def on_message(self, parts: Sequence[Any], now: float) -> None:
        """A whole multipart message arrived on the open socket."""
        if self._link not in (_Link.GREETING, _Link.READY):
            self.stray_answers += 1
            return
        try:
            message = _wire.unpack(parts)
        except Error as error:
            if error.code == "wrong_version":
                self._refused(error, now)
            else:
                self._lost(str(error), now)
            return
        body = message.WhichOneof("body")
        if body == "welcome":
            self._on_welcome(message.welcome, now)
        elif body == "failure":
            self._on_failure(message.failure, now)
        elif body == "generate":
            self._on_events(message.generate.events, now)
        elif body is not None:
            self._on_answer(getattr(message, body).request_id, message, parts, now)
        if self._link is _Link.READY:
            self._send_due(now)  # an answer makes place for the next request

    def on_lost(self, reason: str, now: float, refusal: Optional[Error] = None) -> None:
        """The socket's connection broke or was not made. ``refusal``: the other side does not want this client."""
        if self._link in (_Link.GREETING, _Link.READY):
            if refusal is not None:
                self._refused(refusal, now)
            else:
                self._lost(reason, now)

    def on_time(self, now: float) -> None:
        """Time has passed; to be called at wake_at(), harmless at any time."""
        if self._link is _Link.GREETING and now >= self._link_deadline:
            self._lost(f"{self._address()} did not answer within {_limits.HANDSHAKE_TIMEOUT:.0f} s", now)
        elif self._link is _Link.WAITING and now >= self._link_deadline:
            if self._calls:
                self._connect(now)
            else:
                self._link = _Link.IDLE
                self._homeless_since = None
        self._expire(now)
        if self._link is _Link.READY and any(now >= self._silent_at(call) for call in self._calls.values()):
            self._lost(f"{self._address()} says nothing of its streams any more", now)
        if self._link is _Link.READY:
            self._send_due(now)

    # -- what the shell takes ------------------------------------------------------------------------------------------

    def take_commands(self) -> List[Command]:
        commands, self._commands = self._commands, []
        return commands

    def take_streamed(self) -> List[Tuple[int, List[_streams.Token]]]:
        """Never empty lists; the last tokens of a stream come before its end is in take_finished()."""
        streamed, self._streamed = self._streamed, []
        return streamed

    def take_finished(self) -> List[Tuple[int, Any]]:
        finished, self._finished = self._finished, []
        return finished

    def wake_at(self) -> Optional[float]:
        times = [self._give_up_at(call) for call in self._calls.values()]
        if self._link is _Link.READY:
            has_place = self._num_sent() < _limits.REQUESTS_SENT_MAX
            calls = self._calls.values()
            times += [call.send_at for call in calls if not call.sent and (has_place or call.request.is_stream)]
            times += [self._silent_at(call) for call in calls if call.request.is_stream]
        elif self._link in (_Link.GREETING, _Link.WAITING):
            times.append(self._link_deadline)
        return min(times) if times else None

    # -- the link ------------------------------------------------------------------------------------------------------

    def _address(self) -> str:
        return self._addresses[self._current]

    def _connect(self, now: float) -> None:
        self._link = _Link.GREETING
        if self._homeless_since is None:
            self._homeless_since = now
        self._link_deadline = now + _limits.HANDSHAKE_TIMEOUT
        self._commands.append(Connect(self._address()))
        self._say_hello()

    def _say_hello(self) -> None:
        hello = common_pb2.Hello(
            wire_major=_limits.WIRE_MAJOR,
            wire_minor=_limits.WIRE_MINOR,
            cluster_id=self.cluster_id,
            software=SOFTWARE,
        )
        self._commands.append(Send(_wire.pack(pb.ClientToRouter(hello=hello))))

    def _on_welcome(self, welcome: common_pb2.Welcome, now: float) -> None:
        if self.cluster_id and welcome.cluster_id != self.cluster_id:
            what = f"{self._address()} belongs to cluster {welcome.cluster_id}, this client to {self.cluster_id}"
            self._refused(make_error("wrong_cluster", f"{what}; connect again with the context of that cluster"), now)
            return
        self.cluster_id = welcome.cluster_id
        self._rows_max = welcome.rows_per_request_max or _limits.ROWS_PER_REQUEST_MAX
        self._tensor_bytes_max = welcome.tensor_bytes_max or _limits.TENSOR_BYTES_MAX
        self._link = _Link.READY
        self._homeless_since = None
        self._failures = 0
        self._refusals.clear()

    def _refused(self, error: Error, now: float) -> None:
        """This router will never take this client. When none does, waiting is in vain."""
        self._refusals[self._current] = error
        if len(self._refusals) == len(self._addresses):
            self._fail_all(error)
        self._lost(str(error), now)

    def _lost(self, reason: str, now: float) -> None:
        """Goes on with the next address; after a whole round of failures, after a pause."""
        self._last_failure = reason
        self._commands = [Close()]  # what was to be sent is sent on the next connection
        for call in self._calls.values():
            call.sent = False
        self._drop_hopeless(reason)
        self._current = (self._current + 1) % len(self._addresses)
        self._failures += 1
        if not self._calls:
            self._link = _Link.IDLE
            self._homeless_since = None
        elif self._failures % len(self._addresses) != 0:
            self._connect(now)
        else:
            self._link = _Link.WAITING
            self._link_deadline = now + self._pause(self._failures // len(self._addresses) - 1)
            if self._homeless_since is None:
                self._homeless_since = now

    def _pause(self, repeated: int) -> float:
        pause: float = min(_limits.RECONNECT_PAUSE_MIN * 2 ** min(repeated, 10), _limits.RECONNECT_PAUSE_MAX)
        return pause * (0.5 + 0.5 * self._jitter())

    # -- the calls -----------------------------------------------------------------------------------------------------

    def _num_sent(self) -> int:
        # Streams take no place: the router puts what it has for all of them into one message.
        return sum(call.sent and not call.request.is_stream for call in self._calls.values())

    def _send_due(self, now: float) -> None:
        places = _limits.REQUESTS_SENT_MAX - self._num_sent()
        for request_id, call in list(self._calls.items()):
            if call.sent or call.send_at > now or (places <= 0 and not call.request.is_stream):
                continue
            error = self._too_large(call.request)
            if error is not None:
                self._finish(request_id, error)
                continue
            call.sent = True
            call.attempts += 1
            call.heard_at = now
            remaining_ms = max(1, int((call.deadline - now) * 1000))
            parts = call.request.parts(request_id, self._client_id, remaining_ms)
            if parts:
                self._commands.append(Send(parts))
                places -= not call.request.is_stream
            else:
                self._finish(request_id, None)

    def _too_large(self, request: Request) -> Optional[Error]:
        """Larger parts would make the transport drop the connection without a word."""
        if request.rows > self._rows_max:
            what = f"{request.rows} rows in one call, the router takes {self._rows_max}"
            return make_error("too_large", f"{what}; split the rows over several calls")
        largest = max((tensor.num_bytes for tensor in request.tensors), default=0)
        if largest > self._tensor_bytes_max:
            what = f"a tensor of {largest} bytes, the router takes {self._tensor_bytes_max}"
            return make_error("too_large", f"{what}; split the rows over several calls")
        return None

    def _on_answer(self, request_id: int, message: pb.RouterToClient, parts: Sequence[Any], now: float) -> None:
        call = self._calls.get(request_id)
        if call is None:
            self.stray_answers += 1
            return
        try:
            self._finish(request_id, call.request.decode(message, parts))
        except Error as error:
            if error.code == "corrupt":
                self._lost(str(error), now)
            else:
                self._finish(request_id, error)

    def _on_events(self, events: Sequence[pb.GenerateEvent], now: float) -> None:
        for event in events:
            call = self._calls.get(event.request_id)
            if call is None or not isinstance(call.request, GenerateRequest):
                self.stray_answers += 1
                continue
            call.heard_at = now
            try:
                tokens = call.request.absorb(event)
            except Error as error:
                self._lost(str(error), now)
                return
            if tokens:
                call.attempts = 1  # it gets on
                self._streamed.append((event.request_id, tokens))
            if event.HasField("end"):
                self._finish(event.request_id, None)

    def _on_failure(self, failure: pb.Failure, now: float) -> None:
        code = failure.error.code
        if self._link is _Link.GREETING:
            error = from_wire(failure.error)
            if error.retryable:
                self._lost(str(error), now)
            else:
                self._refused(error, now)
        elif code == common_pb2.HANDSHAKE_REQUIRED:
            self._greet_again(now)
        elif failure.request_id == 0:
            self._lost(str(from_wire(failure.error)), now)
        elif failure.request_id not in self._calls:
            self.stray_answers += 1
        elif code in _RETRY_CODES:
            self._ask_again_later(failure, now)
        else:
            self._on_final_failure(failure, now)

    def _greet_again(self, now: float) -> None:
        """The router forgot this connection (it was restarted behind the same address)."""
        self._link = _Link.GREETING
        self._link_deadline = now + _limits.HANDSHAKE_TIMEOUT
        for call in self._calls.values():
            call.sent = False
        self._drop_hopeless("the router asks for a handshake again and again")
        self._say_hello()

    def _on_final_failure(self, failure: pb.Failure, now: float) -> None:
        """For most calls the end; a stream may go on elsewhere, or later."""
        call, error = self._calls[failure.request_id], from_wire(failure.error)
        stream = call.request if isinstance(call.request, GenerateRequest) else None
        may_move = len(self._addresses) > 1
        if stream is None or not stream.goes_on(failure) or not (may_move or stream.is_accepted):
            self._finish(failure.request_id, error)
        elif call.attempts >= _limits.ATTEMPTS_PER_REQUEST_MAX:
            self._finish(failure.request_id, error)
        elif failure.error.code == common_pb2.UNAVAILABLE and may_move:
            # The first move is made at once, so that the stream hardly stops.
            call.send_at = now + (self._pause(call.attempts) if call.attempts > 1 else 0.0)
            self._lost(str(error), now)
        else:
            call.sent = False
            call.send_at = now + max(self._pause(call.attempts), failure.error.retry_after_ms / 1000.0)

    def _ask_again_later(self, failure: pb.Failure, now: float) -> None:
        call = self._calls[failure.request_id]
        if failure.error.code == common_pb2.CORRUPT and call.attempts >= _limits.ATTEMPTS_PER_REQUEST_MAX:
            self._finish(failure.request_id, from_wire(failure.error))
            return
        call.sent = False
        call.send_at = now + max(_limits.IN_PROGRESS_PAUSE, failure.error.retry_after_ms / 1000.0)

    def _give_up_at(self, call: _Call) -> float:
        # A request that a router works on gets that router's verdict, which comes a little after the deadline.
        if call.request.is_stream and self._homeless_since is not None:
            return min(call.deadline, max(self._homeless_since, call.begun) + _limits.STREAM_HOMELESS_MAX)
        return call.deadline + (_limits.ANSWER_GRACE if call.sent else 0.0)

    def _silent_at(self, call: _Call) -> float:
        silence = _limits.STREAM_SILENCE_MAX if call.request.is_stream and call.sent else float("inf")
        return call.heard_at + silence

    def _expire(self, now: float) -> None:
        for request_id, call in list(self._calls.items()):
            if now >= self._give_up_at(call):
                self._finish(request_id, self._deadline_error(call))

    def _deadline_error(self, call: _Call) -> Error:
        timeout = f"{call.request.timeout:g} s"
        if call.sent or self._link is _Link.READY:
            return Timeout(f"{self._address()} did not answer within {timeout}; try again, or with a longer timeout")
        if call.request.is_stream:
            timeout = f"{min(call.request.timeout, _limits.STREAM_HOMELESS_MAX):g} s"
        routers = ", ".join(self._addresses)
        return Unavailable(
            f"no router answered at {routers} within {timeout} (last: {self._last_failure}); "
            "is the cluster up? 'troupe status' tells"
        )

    def _drop_hopeless(self, reason: str) -> None:
        for request_id, call in list(self._calls.items()):
            if call.attempts >= _limits.ATTEMPTS_PER_REQUEST_MAX:
                text = f"the connection was lost {call.attempts} times under this call (last: {reason})"
                self._finish(request_id, Unavailable(f"{text}; look at the routers' logs"))

    def _fail_all(self, error: Error) -> None:
        for request_id in list(self._calls):
            self._finish(request_id, error)

    def _finish(self, request_id: int, outcome: Any) -> None:
        self._calls.pop(request_id, None)
        self._finished.append((request_id, outcome))
