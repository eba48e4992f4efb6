"""The asyncio twin of the client: the same verbs, to be awaited.

async with troupe.aio.connect() as cluster:
    result = await cluster.layer(3, hidden)
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
import weakref
from types import TracebackType
from typing import Any, AsyncIterator, Dict, Generator, List, Optional, Sequence, Type, Union

import zmq
import zmq.asyncio

from troupe import _context
from troupe._proto import client_router_pb2 as pb
from troupe._requests import Greeting, InfoRequest, Layer, LayerRequest, LayerResult, Request
from troupe._session import Close, Connect, Send, Session
from troupe._socket import Link
from troupe._streams import GenerateRequest, Prompt, Token, TokenizeRequest, Usage
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
        # Weak, so that a stream whose loop was left early goes away, and ends its work.
        self._streams: weakref.WeakValueDictionary[int, TokenStream] = weakref.WeakValueDictionary()
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

    def generate(self, prompt: Prompt, **options: Any) -> TokenStream:
        """As :meth:`troupe.Cluster.generate`; for ``async for``."""
        if self._closed:
            raise _closed()
        request_id = next(self._ids)
        stream = TokenStream(self, request_id, GenerateRequest(prompt, **options))
        self._streams[request_id] = stream
        self._session.submit(request_id, stream._request, time.monotonic())
        self._turn()
        return stream

    async def tokenize(self, text: Prompt, *, add_special: bool = False, timeout: Optional[float] = None) -> List[int]:
        """As :meth:`troupe.Cluster.tokenize`."""
        ids: List[int] = (await self._call(TokenizeRequest(text, add_special, timeout)))[0]
        return ids

    async def detokenize(self, tokens: Sequence[int], *, timeout: Optional[float] = None) -> str:
        """As :meth:`troupe.Cluster.detokenize`."""
        text: str = (await self._call(TokenizeRequest(tokens, False, timeout)))[1]
        return text

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
        for stream in list(self._streams.values()):
            stream._end(_closed())
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

    def _forget(self, request_id: int) -> None:
        """Ends a stream whose reader went away."""
        if not self._closed:
            self._session.cancel(request_id)
            self._turn()

    def _turn(self) -> None:
        """Does what the session wants done, after anything has happened. Not reentrant: inner calls change nothing."""
        if self._turning or self._closed:
            return
        self._turning = True
        try:
            self._perform()
        finally:
            self._turning = False
        for request_id, tokens in self._session.take_streamed():
            stream = self._streams.get(request_id)
            if stream is not None:
                stream._add(tokens)
        for request_id, outcome in self._session.take_finished():
            stream = self._streams.get(request_id)
            if stream is not None:
                stream._end(outcome if isinstance(outcome, Error) else None)
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


class TokenStream:
    """The tokens of one answer, made by :meth:`Cluster.generate`: an asynchronous iterator, and a context manager that
    closes it. One task at a time. The attributes are those of :class:`troupe.TokenStream`.
    """

    def __init__(self, cluster: Cluster, request_id: int, request: GenerateRequest) -> None:
        self._cluster = cluster
        self._request_id = request_id
        self._request = request
        self._ready: List[Token] = []
        self._error: Optional[Error] = None
        self._is_over = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def seed(self) -> int:
        return self._request.seed

    @property
    def prompt_tokens(self) -> Optional[int]:
        return self._request.prompt_tokens

    @property
    def usage(self) -> Optional[Usage]:
        return self._request.usage

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        while not self._ready:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._is_over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._ready.pop(0)

    async def aclose(self) -> None:
        """Ends the stream; its work at the router stops. Safe to call at any time, and twice."""
        self._ready.clear()
        self._give_up()
        self._error = None

    async def __aenter__(self) -> TokenStream:
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop that was left early. The garbage collector may run in any thread.
        if not self._is_over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cluster._forget, self._request_id)

    def _add(self, tokens: List[Token]) -> None:
        self._ready += tokens
        self._changed.set()

    def _end(self, error: Optional[Error]) -> None:
        self._cluster._streams.pop(self._request_id, None)
        self._is_over = True
        self._error = error
        self._changed.set()

    def _give_up(self) -> None:
        if self._is_over:
            return
        self._end(None)
        self._cluster._forget(self._request_id)


def _closed() -> Error:
    return InvalidRequest("this connection was closed; call troupe.aio.connect() again")
