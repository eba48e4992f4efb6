"""A router for tests: a ROUTER socket in a thread, with its own reading of docs/wire-framing.md.

``behaviour(router, peer, message, tensors)`` is called for everything but Hello and answers through ``router.answer``;
the default computes ``output = 2 * hidden`` on the spot.
"""

from __future__ import annotations

import json
import struct
import threading
import zlib
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import zmq
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2
from zmq.auth.thread import ThreadAuthenticator

PREAMBLE = struct.Struct("<4sBBBBQ")
NUMPY = {
    common_pb2.F32: "<f4",
    common_pb2.F16: "<f2",
    common_pb2.BF16: "<u2",
    common_pb2.I32: "<i4",
    common_pb2.U8: "u1",
}
CLUSTER = "cluster-under-test"


def pack(message: pb.RouterToClient, tensors: Sequence[bytes] = ()) -> List[bytes]:
    envelope = message.SerializeToString()
    return [PREAMBLE.pack(b"TRPE", 1, 1, 2, 0, zlib.crc32(envelope)) + envelope, *tensors]


def describe(array: np.ndarray, dtype: int, part: int) -> common_pb2.Tensor:
    return common_pb2.Tensor(dtype=dtype, shape=array.shape, checksum=zlib.crc32(array.tobytes()), part=part)


def layer_reply(request_id: int, hidden: np.ndarray, dtype: int, scale: float = 2.0, epoch: int = 7) -> List[bytes]:
    """output = scale * hidden, routed_output = hidden, two experts per row."""
    rows = hidden.shape[0]
    if dtype == common_pb2.BF16:
        output = ((hidden.astype(np.uint32) << 16).view(np.float32) * np.float32(scale)).view(np.uint32) >> 16
        output = output.astype(np.uint16)
    else:
        output = (hidden * scale).astype(hidden.dtype)
    ids = np.tile(np.array([1, 0], dtype="<i4"), (rows, 1))
    weights = np.tile(np.array([0.75, 0.25], dtype="<f4"), (rows, 1))
    flags = np.zeros(rows, dtype=np.uint8)
    reply = pb.LayerReply(
        request_id=request_id,
        epoch=epoch,
        output=describe(output, dtype, 1),
        routed_output=describe(hidden, dtype, 2),
        expert_ids=describe(ids, common_pb2.I32, 3),
        expert_weights=describe(weights, common_pb2.F32, 4),
        flags=describe(flags, common_pb2.U8, 5),
    )
    parts = [array.tobytes() for array in (output, hidden, ids, weights, flags)]
    return pack(pb.RouterToClient(layer=reply), parts)


def failure(request_id: int, code: int, message: str, retry_after_ms: int = 0) -> List[bytes]:
    error = common_pb2.Error(code=code, message=message, retry_after_ms=retry_after_ms)
    return pack(pb.RouterToClient(failure=pb.Failure(request_id=request_id, error=error)))


def double(router: FakeRouter, peer: bytes, message: pb.ClientToRouter, tensors: List[np.ndarray]) -> None:
    kind = message.WhichOneof("body")
    body = getattr(message, kind)
    if kind == "info":
        document = {"items": [{"name": "expert-0"}], "layer": body.layer, "kind": body.kind}
        reply = pb.InfoReply(request_id=body.request_id, json=json.dumps(document))
        router.answer(peer, pack(pb.RouterToClient(info=reply)))
    elif kind == "tokenize":
        tokens = [ord(letter) for letter in body.text]
        text = "".join(map(chr, body.tokens.ids)) or body.messages_json
        answer = pb.TokenizeReply(request_id=body.request_id, tokens=tokens, text=text)
        router.answer(peer, pack(pb.RouterToClient(tokenize=answer)))
    else:
        router.answer(peer, layer_reply(body.request_id, tensors[0], body.hidden.dtype))


Behaviour = Callable[["FakeRouter", bytes, pb.ClientToRouter, List[np.ndarray]], None]


class FakeRouter:
    """Runs from construction to stop(); stop() breaks all connections at once, as a killed process would."""

    def __init__(self, address: str, behaviour: Behaviour = double, keys: Optional[Dict[str, Any]] = None) -> None:
        self.seen: List[pb.ClientToRouter] = []  # everything but Hello
        self.hellos: List[common_pb2.Hello] = []
        self.greeted: set = set()
        self.welcome = common_pb2.Welcome(
            wire_major=1, cluster_id=CLUSTER, node="router-0", tensor_bytes_max=1 << 20, rows_per_request_max=64
        )
        self.hello_failure: Optional[common_pb2.Error] = None
        self._behaviour = behaviour
        self._changed = threading.Condition()
        self._context = zmq.Context()
        self._authenticator: Optional[ThreadAuthenticator] = None
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.setsockopt(zmq.SNDHWM, 0)  # a full queue would drop messages without a word
        if keys is not None:
            self._guard(keys)
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop_receiver = self._context.socket(zmq.PAIR)
        self._stop_receiver.bind("inproc://stop")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _guard(self, keys: Dict[str, Any]) -> None:
        """CURVE, with only the client public keys of ``keys['allowed']`` let in."""
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()

        class Allowed:
            def callback(self, domain: str, key: bytes) -> bool:
                return key in keys["allowed"]

        self._authenticator.configure_curve_callback(domain="*", credentials_provider=Allowed())
        self._socket.curve_server = True
        self._socket.curve_publickey = keys["public"]
        self._socket.curve_secretkey = keys["secret"]

    def answer(self, peer: bytes, parts: List[bytes]) -> None:
        self._socket.send_multipart([peer, *parts])

    def events(self, peer: bytes, *events: pb.GenerateEvent) -> None:
        self.answer(peer, pack(pb.RouterToClient(generate=pb.GenerateEvents(events=events))))

    def forget_peers(self) -> None:
        """As after a restart behind the same connection: everybody must say hello again."""
        self.greeted.clear()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Waits until ``condition`` holds; it is looked at after each message."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), "the fake router did not see what it should"

    def stop(self) -> None:
        if self._thread.is_alive():
            stopper = self._context.socket(zmq.PAIR)
            stopper.connect("inproc://stop")
            stopper.send(b"")
            self._thread.join()
            stopper.close(0)
            if self._authenticator is not None:
                self._authenticator.stop()
            self._context.destroy(linger=0)

    def __enter__(self) -> FakeRouter:
        return self

    def __exit__(self, *unused: Any) -> None:
        self.stop()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stop_receiver, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stop_receiver in ready:
                self._socket.close(0)
                self._stop_receiver.close(0)
                return
            peer, *parts = self._socket.recv_multipart()
            with self._changed:
                self._serve(peer, parts)
                self._changed.notify_all()

    def _serve(self, peer: bytes, parts: List[bytes]) -> None:
        magic, major, minor, kind, zero, digest = PREAMBLE.unpack_from(parts[0])
        envelope = parts[0][PREAMBLE.size :]
        assert (magic, major, minor, zero) == (b"TRPE", 1, 1, 0)
        # 1, XXH3, is what the command line sends; Python has no such library to check it with.
        assert kind == 1 or (kind, digest) == (2, zlib.crc32(envelope))
        message = pb.ClientToRouter.FromString(envelope)
        if message.WhichOneof("body") == "hello":
            self._greet(peer, message.hello)
            return
        if peer not in self.greeted:
            self.answer(peer, failure(0, common_pb2.HANDSHAKE_REQUIRED, "say hello first"))
            return
        self.seen.append(message)
        self._behaviour(self, peer, message, self._tensors(message, parts))

    def _greet(self, peer: bytes, hello: common_pb2.Hello) -> None:
        self.hellos.append(hello)
        if self.hello_failure is not None:
            self.answer(peer, pack(pb.RouterToClient(failure=pb.Failure(error=self.hello_failure))))
        else:
            self.greeted.add(peer)
            self.answer(peer, pack(pb.RouterToClient(welcome=self.welcome)))

    def _tensors(self, message: pb.ClientToRouter, parts: List[bytes]) -> List[np.ndarray]:
        kind = message.WhichOneof("body")
        body = getattr(message, kind)
        described = {"layer": ["hidden"], "experts": ["hidden", "expert_ids", "expert_weights"]}.get(kind, [])
        arrays = []
        for name in described:
            tensor = getattr(body, name)
            data = parts[tensor.part]
            assert tensor.checksum == zlib.crc32(data), f"{name}: checksum"
            arrays.append(np.frombuffer(data, dtype=NUMPY[tensor.dtype]).reshape(tuple(tensor.shape)))
        assert len(parts) == 1 + len(arrays)
        return arrays


class Story:
    """The answer that every router of a test gives: token p of a stream is 100 + p, its text "p ".

    As in a real cluster it does not depend on who tells it, so that another router can go on with it.
    """

    def __init__(self, length: int = 8) -> None:
        self.length = length

    def token(self, position: int) -> pb.GeneratedToken:
        return pb.GeneratedToken(id=100 + position, position=position, text=f"{position} ", logprob=-0.5)

    def tell(self, router: FakeRouter, peer: bytes, asked: pb.GenerateRequest, until: Optional[int] = None) -> None:
        """Accepts and tells the tokens from where the client is, up to `until`; without it to the end."""
        begun = pb.GenerateAccepted(prompt_tokens=3, seed=asked.sampling.seed, max_tokens=asked.max_tokens or 99)
        router.events(peer, pb.GenerateEvent(request_id=asked.request_id, accepted=begun))
        last = self.length if until is None else until
        for position in range(len(asked.resumed), last):
            router.events(peer, pb.GenerateEvent(request_id=asked.request_id, tokens=[self.token(position)]))
        if until is None:
            self.end(router, peer, asked)

    def end(self, router: FakeRouter, peer: bytes, asked: pb.GenerateRequest) -> None:
        end = pb.GenerateEnd(reason=pb.FINISH_LENGTH, prompt_tokens=3, answer_tokens=self.length)
        router.events(peer, pb.GenerateEvent(request_id=asked.request_id, end=end))

    def behaviour(self, until: Optional[int] = None) -> Behaviour:
        """Streams are told up to `until`; whatever else is asked is answered as by `double`."""

        def act(router: FakeRouter, peer: bytes, message: pb.ClientToRouter, tensors: List[np.ndarray]) -> None:
            kind = message.WhichOneof("body")
            if kind == "generate":
                self.tell(router, peer, message.generate, until)
            elif kind != "cancel":
                double(router, peer, message, tensors)

        return act


def generate_requests(router: FakeRouter) -> List[pb.GenerateRequest]:
    return [message.generate for message in router.seen if message.WhichOneof("body") == "generate"]


def cancel_requests(router: FakeRouter) -> List[int]:
    return [message.cancel.request_id for message in router.seen if message.WhichOneof("body") == "cancel"]
