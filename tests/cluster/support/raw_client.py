"""A client that says what it is told to, right or wrong: parts on a DEALER socket (docs/wire-framing.md)."""
import struct
import zlib

import zmq
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2

CRC32 = 2
ANSWER_SECONDS = 10


def envelope_part(message, magic=b"TRPE", major=1, minor=0, kind=CRC32, checksum=None):
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack("<4sBBBBQ", magic, major, minor, kind, 0, zlib.crc32(data) if checksum is None else checksum) + data


def hello(cluster_id="", major=1):
    return pb.ClientToRouter(hello=common_pb2.Hello(wire_major=major, wire_minor=0, cluster_id=cluster_id, software="test"))


def layer_request(hidden, request_id=1, layer="0", client_id="raw", **fields):
    """-> (message, parts behind the envelope)"""
    data = hidden.tobytes()
    described = common_pb2.Tensor(dtype=common_pb2.F32, shape=hidden.shape, checksum=zlib.crc32(data), part=1)
    request = pb.LayerRequest(request_id=request_id, client_id=client_id, layer=layer, hidden=described, **fields)
    return pb.ClientToRouter(layer=request), [data]


class RawClient:
    def __init__(self, address, keys=None):
        """`keys`: for TCP; public, secret and server (the router's public key)."""
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        if keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = (
                keys[name].encode() for name in ("public", "secret", "server"))
        self.socket.linger = 0
        self.socket.connect(address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.context.term()

    def greet(self, **keywords):
        answer = self.ask(hello(**keywords))
        assert answer.WhichOneof("body") == "welcome", answer
        return answer.welcome

    def send(self, message, parts=()):
        self.send_parts([envelope_part(message), *parts])

    def send_parts(self, parts):
        self.socket.send_multipart(parts)

    def receive(self, seconds=ANSWER_SECONDS):
        """The next answer's envelope, or None when there is none in time."""
        if not self.socket.poll(seconds * 1000):
            return None
        self.parts = self.socket.recv_multipart()
        magic, major, _, kind, _, checksum = struct.unpack_from("<4sBBBBQ", self.parts[0])
        assert (magic, major, kind) == (b"TRPE", 1, CRC32)
        assert zlib.crc32(self.parts[0][16:]) == checksum
        return pb.RouterToClient.FromString(self.parts[0][16:])

    def ask(self, message, parts=()):
        self.send(message, parts)
        answer = self.receive()
        assert answer is not None, "no answer"
        return answer
