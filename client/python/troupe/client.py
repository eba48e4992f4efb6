"""The blocking client: :func:`connect` and :class:`Cluster`."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Type, Union

import zmq

from troupe import _context, _limits
from troupe._proto import client_router_pb2 as pb
from troupe._requests import Greeting, InfoRequest, Layer, LayerRequest, LayerResult, Request
from troupe._session import Close, Connect, Send, Session
from troupe._socket import Link
from troupe.errors import Error, InvalidRequest, Overloaded, Unavailable


def connect(
    address: Union[str, Sequence[str], None] = None,
    *,
    keys: Optional[_context.PathLike] = None,
    data_dir: Optional[_context.PathLike] = None,
    timeout: Optional[float] = None,
) -> Cluster:
    """Connects to a cluster and returns once a router has answered.

    ``address`` is the client address of a router (``tcp://HOST:PORT`` or ``ipc://PATH``), or several:
    when one is lost, the next is used. Without it the context of ``data_dir``, else of ``$TROUPE_DATA_DIR``, else of
    ``~/.local/state/troupe/default`` says where the cluster is. ``keys`` is a key file; TCP needs one unless the
    context has it. ``timeout`` in seconds, 10 by default.

    Raises Unavailable, PermissionDenied, InvalidRequest.
    """
    cluster = Cluster(_context.resolve(address, keys, data_dir))
    try:
        cluster._call(Greeting(timeout))
    except BaseException:
        cluster.close()
        raise
    return cluster


class Cluster:
    """A connection to a cluster. Made by :func:`connect`; a context manager.

    Thread-safe: calls of several threads run side by side, each over a connection of its own (at most 64; further
    calls wait for one). Do not carry it over a fork: connect again in the child.
    """

    def __init__(self, target: _context.Target) -> None:
        self._target = target
        self._client_id = uuid.uuid4().hex
        self._ids = itertools.count(1)  # its next() is atomic
        self._context = zmq.Context()
        # protected by _free
        self._free = threading.Condition()
        self._idle: List[_Channel] = []
        self._num_channels = 0
        self._closed = False

    def layer(
        self, layer: Layer, hidden: Any, *, degrade: Optional[str] = None, timeout: Optional[float] = None
    ) -> LayerResult:
        """The whole MoE block of one layer: gate, routed experts, shared experts.

        ``layer`` is the block's number in the checkpoint, or "encoder.N" / "decoder.N". ``hidden`` [T, H] is float32,
        float16 or bfloat16 (ml_dtypes array or torch tensor). ``degrade`` says what happens to rows of an expert
        without a replica: "wait" (default, until the timeout), "substitute", "renormalise" or "fail". ``timeout`` in
        seconds, 30 by default. A call whose connection is lost is repeated until the timeout.

        Raises InvalidRequest, NotFound, Unavailable, Timeout, Overloaded.
        """
        result: LayerResult = self._call(LayerRequest(layer, hidden, degrade, timeout))
        return result

    def experts(
        self,
        layer: Layer,
        hidden: Any,
        ids: Any,
        weights: Any,
        *,
        degrade: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> LayerResult:
        """For callers that have gated: ``output[t]`` is the sum over k of ``weights[t, k]`` * expert ``ids[t, k]``.

        ``ids`` [T, k] are integers (-1: no expert), ``weights`` [T, k] floats. The rest is as in :meth:`layer`;
        ``degrade`` cannot be "substitute".
        """
        result: LayerResult = self._call(LayerRequest(layer, hidden, degrade, timeout, ids, weights))
        return result

    def status(self, *, timeout: Optional[float] = None) -> Dict[str, Any]:
        """What ``troupe status -o json`` prints."""
        document: Dict[str, Any] = self._call(InfoRequest(pb.STATUS, timeout))
        return document

    def nodes(self, *, timeout: Optional[float] = None) -> List[Dict[str, Any]]:
        """The items of ``troupe node list -o json``."""
        items: List[Dict[str, Any]] = self._call(InfoRequest(pb.NODES, timeout))
        return items

    def list_experts(self, layer: Optional[Layer] = None, *, timeout: Optional[float] = None) -> List[Dict[str, Any]]:
        """The items of ``troupe expert list -o json``, of one layer or of all."""
        items: List[Dict[str, Any]] = self._call(InfoRequest(pb.EXPERTS, timeout, layer))
        return items

    def model(self, *, timeout: Optional[float] = None) -> Dict[str, Any]:
        """What the cluster serves: name, family, layers, sizes."""
        document: Dict[str, Any] = self._call(InfoRequest(pb.MODEL, timeout))
        return document

    def close(self) -> None:
        """Ends the connections; calls of other threads that are under way end normally. Safe to call twice."""
        with self._free:
            self._closed = True
            while self._idle:
                self._discard(self._idle.pop())
            self._free.notify_all()
            self._end_context()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _call(self, request: Request) -> Any:
        channel = self._take(time.monotonic() + request.timeout)
        try:
            outcome = channel.call(next(self._ids), request)
        finally:
            self._give_back(channel)
        if isinstance(outcome, Error):
            raise outcome
        return outcome

    def _take(self, deadline: float) -> _Channel:
        with self._free:
            while True:
                if self._closed:
                    raise InvalidRequest("this connection was closed; call troupe.connect() again")
                if self._idle:
                    return self._idle.pop()
                if self._num_channels < _limits.CONNECTIONS_MAX:
                    self._num_channels += 1
                    return _Channel(self._context, self._target, self._client_id)
                if not self._free.wait(deadline - time.monotonic()):
                    limit = _limits.CONNECTIONS_MAX
                    raise Overloaded(f"{limit} calls of this connection are under way; wait for some of them")

    def _give_back(self, channel: _Channel) -> None:
        with self._free:
            if self._closed:
                self._discard(channel)
                self._end_context()
            else:
                self._idle.append(channel)
            self._free.notify()

    def _discard(self, channel: _Channel) -> None:
        channel.close()
        self._num_channels -= 1

    def _end_context(self) -> None:
        # term() waits for open sockets, so it comes after the last one.
        if self._num_channels == 0:
            self._context.term()


class _Channel:
    """One session with its socket, used by one thread at a time for one call at a time."""

    def __init__(self, context: Any, target: _context.Target, client_id: str) -> None:
        self._context = context
        self._credentials = target.credentials
        self._session = Session(target.addresses, client_id, target.cluster_id)
        self._link: Optional[Link] = None

    def call(self, request_id: int, request: Request) -> Any:
        """The result, or the Error, of a request."""
        session = self._session
        self._hear(0.0)  # what happened since the last call: the connection may be gone
        session.submit(request_id, request, time.monotonic())
        try:
            while True:
                self._perform()
                for finished, outcome in session.take_finished():
                    if finished == request_id:
                        return outcome
                wake_at = session.wake_at()
                if wake_at is None:
                    return Unavailable("the connection ended without an answer; try again")
                self._hear(max(0.0, wake_at - time.monotonic()))
                session.on_time(time.monotonic())
        finally:
            session.cancel(request_id)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _perform(self) -> None:
        commands = self._session.take_commands()
        while commands:
            command = commands.pop(0)
            if isinstance(command, Connect):
                self.close()
                self._open(command.address)
            elif isinstance(command, Close):
                self.close()
            elif isinstance(command, Send) and self._link is not None:
                self._send(self._link, command.parts)
            if not commands:
                commands = self._session.take_commands()

    def _send(self, link: Link, parts: List[Any]) -> None:
        try:
            link.socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._session.on_lost(f"{link.address} does not read", time.monotonic())

    def _open(self, address: str) -> None:
        try:
            self._link = Link(self._context, address, self._credentials)
        except InvalidRequest as error:
            self._session.on_lost(str(error), time.monotonic(), refusal=error)

    def _hear(self, seconds: float) -> None:
        """Waits until something happens and tells the session all of it: first answers, then the loss."""
        link = self._link
        if link is None:
            time.sleep(seconds)
            return
        poller = zmq.Poller()
        poller.register(link.socket, zmq.POLLIN)
        poller.register(link.monitor, zmq.POLLIN)
        # Rounded up: waking a little early would turn the wait into a busy loop.
        ready = dict(poller.poll(int(seconds * 1000) + 1 if seconds else 0))
        while ready and self._link is link:
            try:
                frames = link.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._session.on_message([frame.buffer for frame in frames], time.monotonic())
            self._perform()
        if link.monitor in ready and self._link is link:
            reason, refusal = link.loss(link.monitor.recv_multipart())
            self._session.on_lost(reason, time.monotonic(), refusal)
            self._perform()
