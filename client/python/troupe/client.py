"""The blocking client: :func:`connect` and :class:`Cluster`."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Type, Union

import zmq

from troupe import _context, _limits
from troupe._proto import client_router_pb2 as pb
from troupe._requests import Greeting, InfoRequest, Layer, LayerRequest, LayerResult, Request
from troupe._session import Close, Connect, Send, Session
from troupe._socket import Link
from troupe._streams import GenerateRequest, Prompt, Token, TokenizeRequest, Usage
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

    def generate(self, prompt: Prompt, **options: Any) -> TokenStream:
        """Text: an iterator over the tokens of the answer, as they come.

        ``prompt`` is text, a list of token ids, or a list of chat messages (``{"role": "user", "content": "..."}``),
        which go through the model's chat template. Options, named as in the HTTP API: ``max_new_tokens`` (or
        ``max_tokens``; what the context has room for), ``temperature`` (1; 0: greedy), ``top_k``, ``top_p``, ``min_p``,
        ``repetition_penalty``, ``presence_penalty``, ``frequency_penalty``, ``logit_bias``, ``seed``, ``stop``,
        ``stop_token_ids``, ``ignore_eos``, ``logprobs`` (True), ``top_logprobs``, ``skip_special_tokens`` (True),
        ``add_special_tokens`` (True; text only), ``degrade`` (as in :meth:`layer`), ``timeout`` (600 seconds, for the
        whole answer).

        When the router dies, another one goes on with the stream: no token is lost and none comes twice. Leaving the
        loop early, or :meth:`TokenStream.close`, ends the work at the router.

        Raises InvalidRequest, Overloaded, Unavailable, Timeout: here, or while iterating.
        """
        request = GenerateRequest(prompt, **options)
        return TokenStream(self, next(self._ids), request)

    def tokenize(self, text: Prompt, *, add_special: bool = False, timeout: Optional[float] = None) -> List[int]:
        """The token ids of a text, or of chat messages through the model's template."""
        ids: List[int] = self._call(TokenizeRequest(text, add_special, timeout))[0]
        return ids

    def detokenize(self, tokens: Sequence[int], *, timeout: Optional[float] = None) -> str:
        """The text of token ids."""
        text: str = self._call(TokenizeRequest(tokens, False, timeout))[1]
        return text

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

    def _throw_away(self, channel: _Channel) -> None:
        """As _give_back(), for a channel that may be in any state."""
        with self._free:
            self._discard(channel)
            if self._closed:
                self._end_context()
            self._free.notify()

    def _discard(self, channel: _Channel) -> None:
        channel.close()
        self._num_channels -= 1

    def _end_context(self) -> None:
        # term() waits for open sockets, so it comes after the last one.
        if self._num_channels == 0:
            self._context.term()


class TokenStream:
    """The tokens of one answer, made by :meth:`Cluster.generate`: an iterator, and a context manager that closes it.

    One thread at a time. ``seed`` is the one that is used; ``prompt_tokens`` is known with the first token, ``usage``
    when the stream has ended by itself.
    """

    def __init__(self, cluster: Cluster, request_id: int, request: GenerateRequest) -> None:
        self._cluster = cluster
        self._request_id = request_id
        self._request = request
        self._ready: List[Token] = []
        self._error: Optional[Error] = None
        self._channel: Optional[_Channel] = cluster._take(time.monotonic() + request.timeout)
        try:
            self._channel.begin(request_id, request)
        except BaseException:
            self._drop_channel()
            raise

    @property
    def seed(self) -> int:
        return self._request.seed

    @property
    def prompt_tokens(self) -> Optional[int]:
        return self._request.prompt_tokens

    @property
    def usage(self) -> Optional[Usage]:
        return self._request.usage

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        while not self._ready:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._channel is None:
                raise StopIteration
            self._wait(self._channel)
        return self._ready.pop(0)

    def close(self) -> None:
        """Ends the stream; its work at the router stops. Safe to call at any time, and twice."""
        channel, self._channel = self._channel, None
        self._ready.clear()
        self._error = None
        if channel is not None:
            channel.end(self._request_id)
            self._cluster._give_back(channel)

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A loop that was left early; while the interpreter ends there may be nothing left to close with.
        if getattr(self, "_channel", None) is not None and zmq is not None:
            self.close()

    def _wait(self, channel: _Channel) -> None:
        try:
            tokens, ended, outcome = channel.news(self._request_id)
        except BaseException:
            # Ctrl-C may come at any point: this connection is not used again. Its end stops the work at the router.
            self._drop_channel()
            raise
        self._ready += tokens
        if ended:
            self._error = outcome if isinstance(outcome, Error) else None
            self._channel = None
            self._cluster._give_back(channel)

    def _drop_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._cluster._throw_away(channel)


class _Channel:
    """One session with its socket, used by one thread at a time for one call at a time."""

    def __init__(self, context: Any, target: _context.Target, client_id: str) -> None:
        self._context = context
        self._credentials = target.credentials
        self._session = Session(target.addresses, client_id, target.cluster_id)
        self._link: Optional[Link] = None

    def call(self, request_id: int, request: Request) -> Any:
        """The result, or the Error, of a request."""
        self.begin(request_id, request)
        try:
            while True:
                _, ended, outcome = self.news(request_id)
                if ended:
                    return outcome
        finally:
            self._session.cancel(request_id)

    def begin(self, request_id: int, request: Request) -> None:
        self._hear(0.0)  # what happened since the last call: the connection may be gone
        self._session.submit(request_id, request, time.monotonic())
        self._perform()

    def news(self, request_id: int) -> Tuple[List[Token], bool, Any]:
        """Waits for tokens of a stream or the end: (tokens, whether it is over, the result or Error of the call)."""
        session = self._session
        while True:
            self._perform()
            tokens = [one for number, some in session.take_streamed() if number == request_id for one in some]
            for finished, outcome in session.take_finished():
                if finished == request_id:
                    return tokens, True, outcome
            if tokens:
                return tokens, False, None
            wake_at = session.wake_at()
            if wake_at is None:
                return tokens, True, Unavailable("the connection ended without an answer; try again")
            self._hear(max(0.0, wake_at - time.monotonic()))
            session.on_time(time.monotonic())

    def end(self, request_id: int) -> None:
        """Gives a call up; a stream is ended at its router."""
        self._session.cancel(request_id)
        self._perform()
        self._session.take_streamed()
        self._session.take_finished()

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
