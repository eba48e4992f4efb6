"""The asyncio twin of the client: the same verbs, to be awaited.

async with troupe.aio.connect() as cluster:
    result = await cluster.layer(3, hidden)
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from types import TracebackType
from typing import Any, Dict, Generator, List, Optional, Sequence, Type, Union

import zmq
import zmq.asyncio

from troupe import _context
from troupe._proto import client_router_pb2 as pb
from troupe._requests import Greeting, InfoRequest, Layer, LayerRequest, LayerResult, Request
from troupe._session import Close, Connect, Send, Session
from troupe._socket import Link
from troupe.errors import Error, InvalidRequest


def connect(
    address: Union[str, Sequence[str], None] = None,
    *,
    keys: Optional[_context.PathLike] = None,
    data_dir: Optional[_context.PathLike] = None,
    timeout: Optional[float] = None,
) -> _Connecting:
    """As :func:`troupe.connect`; ``await`` the result, or use it with ``async with``."""
    return _Connecting(address, keys, data_dir, timeout)


class _Connecting:
    """What connect() returns: an awaitable and an asynchronous context manager, both of a Cluster."""

    def __init__(
        self,
        address: Union[str, Sequence[str], None],
        keys: Optional[_context.PathLike],
        data_dir: Optional[_context.PathLike],
        timeout: Optional[float],
    ) -> None:
        self._arguments = (address, keys, data_dir)
        self._timeout = timeout
        self._cluster: Optional[Cluster] = None

    def __await__(self) -> Generator[Any, None, Cluster]:
        return self._connect().__await__()

    async def __aenter__(self) -> Cluster:
        self._cluster = await self._connect()
        return self._cluster

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._cluster is not None:
            await self._cluster.close()

    async def _connect(self) -> Cluster:
        cluster = Cluster(_context.resolve(*self._arguments))
        try:
            await cluster._call(Greeting(self._timeout))
        except BaseException:
            await cluster.close()
            raise
        return cluster


class Cluster:
    """A connection to a cluster. Made by :func:`connect`; an asynchronous context manager.

    Belongs to the event loop it was made in. Any number of tasks may call at the same time (at most 1024 calls under
    way): all go over one connection. A cancelled call is forgotten; its late answer is dropped.
    """

    def __init__(self, target: _context.Target) -> None:
        self._session = Session(target.addresses, uuid.uuid4().hex, target.cluster_id)
        self._credentials = target.credentials
        self._context = zmq.asyncio.Context()
        self._ids = itertools.count(1)
        self._futures: Dict[int, asyncio.Future[Any]] = {}
        self._link: Optional[Link] = None
        self._listeners: List[asyncio.Task[None]] = []
        self._alarm: Optional[asyncio.TimerHandle] = None
        self._turning = False
        self._closed = False

    async def layer(
        self, layer: Layer, hidden: Any, *, degrade: Optional[str] = None, timeout: Optional[float] = None
    ) -> LayerResult:
        """As :meth:`troupe.Cluster.layer`."""
        result: LayerResult = await self._call(LayerRequest(layer, hidden, degrade, timeout))
        return result

    async def experts(
        self,
        layer: Layer,
        hidden: Any,
        ids: Any,
        weights: Any,
        *,
        degrade: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> LayerResult:
        """As :meth:`troupe.Cluster.experts`."""
        result: LayerResult = await self._call(LayerRequest(layer, hidden, degrade, timeout, ids, weights))
        return result

    async def status(self, *, timeout: Optional[float] = None) -> Dict[str, Any]:
        """As :meth:`troupe.Cluster.status`."""
        document: Dict[str, Any] = await self._call(InfoRequest(pb.STATUS, timeout))
        return document

    async def nodes(self, *, timeout: Optional[float] = None) -> List[Dict[str, Any]]:
        """As :meth:`troupe.Cluster.nodes`."""
        items: List[Dict[str, Any]] = await self._call(InfoRequest(pb.NODES, timeout))
        return items

    async def list_experts(
        self, layer: Optional[Layer] = None, *, timeout: Optional[float] = None
    ) -> List[Dict[str, Any]]:
        """As :meth:`troupe.Cluster.list_experts`."""
        items: List[Dict[str, Any]] = await self._call(InfoRequest(pb.EXPERTS, timeout, layer))
        return items

    async def model(self, *, timeout: Optional[float] = None) -> Dict[str, Any]:
        """As :meth:`troupe.Cluster.model`."""
        document: Dict[str, Any] = await self._call(InfoRequest(pb.MODEL, timeout))
        return document

    async def close(self) -> None:
        """Ends the connection; calls that are under way end with InvalidRequest. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        listeners = self._listeners
        self._close_link()
        await asyncio.gather(*listeners, return_exceptions=True)
        for future in self._futures.values():
            if not future.done():
                future.set_exception(_closed())
        self._context.term()

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()

    async def _call(self, request: Request) -> Any:
        if self._closed:
            raise _closed()
        request_id = next(self._ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._futures[request_id] = future
        try:
            self._session.submit(request_id, request, time.monotonic())
            self._turn()
            return await future
        finally:
            del self._futures[request_id]
            self._session.cancel(request_id)
            self._turn()  # a cancelled call makes place for one that waits

    def _turn(self) -> None:
        """Does what the session wants done, after anything has happened. Not reentrant: inner calls change nothing."""
        if self._turning or self._closed:
            return
        self._turning = True
        try:
            self._perform()
        finally:
            self._turning = False
        for request_id, outcome in self._session.take_finished():
            future = self._futures.get(request_id)
            if future is None or future.done():
                continue
            if isinstance(outcome, Error):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._set_alarm()

    def _perform(self) -> None:
        commands = self._session.take_commands()
        while commands:
            command = commands.pop(0)
            if isinstance(command, Connect):
                self._close_link()
                self._open_link(command.address)
            elif isinstance(command, Close):
                self._close_link()
            elif isinstance(command, Send) and self._link is not None:
                self._send(self._link, command.parts)
            if not commands:
                commands = self._session.take_commands()

    def _send(self, link: Link, parts: List[Any]) -> None:
        # With NOBLOCK the future is done when it is returned. (A plain socket's send could swallow the wake-up of the
        # listener, which libzmq signals only once.)
        sent = link.socket.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)
        if sent.exception() is not None:
            self._session.on_lost(f"{link.address} does not read", time.monotonic())

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        wake_at = self._session.wake_at()
        if wake_at is not None:
            delay = max(0.0, wake_at - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay, self._on_alarm)

    def _on_alarm(self) -> None:
        self._session.on_time(time.monotonic())
        self._turn()

    def _open_link(self, address: str) -> None:
        try:
            link = Link(self._context, address, self._credentials)
        except InvalidRequest as error:
            self._session.on_lost(str(error), time.monotonic(), refusal=error)
            return
        self._link = link
        self._listeners = [
            asyncio.ensure_future(self._listen_to_messages(link)),
            asyncio.ensure_future(self._listen_to_monitor(link)),
        ]

    def _close_link(self) -> None:
        if self._link is not None:
            for listener in self._listeners:
                listener.cancel()
            self._link.close()
            self._link = None

    async def _listen_to_messages(self, link: Link) -> None:
        while self._link is link:
            frames = await link.socket.recv_multipart(copy=False)
            if self._link is link:
                self._session.on_message([frame.buffer for frame in frames], time.monotonic())
                self._turn()

    async def _listen_to_monitor(self, link: Link) -> None:
        event = await link.monitor.recv_multipart()
        # Answers that came before the loss are told first. Nothing comes after it, so no wake-up can be missed.
        plain_socket: Any = zmq.Socket.shadow(link.socket.underlying)
        while self._link is link:
            try:
                frames = plain_socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._session.on_message([frame.buffer for frame in frames], time.monotonic())
            self._turn()
        if self._link is link:
            reason, refusal = link.loss(event)
            self._session.on_lost(reason, time.monotonic(), refusal)
            self._turn()


def _closed() -> Error:
    return InvalidRequest("this connection was closed; call troupe.aio.connect() again")
