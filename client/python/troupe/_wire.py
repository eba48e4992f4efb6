"""Framing of messages (docs/wire-framing.md): preamble and envelope in one part, each tensor in its own."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, List, Sequence, Tuple

from troupe import _limits
from troupe._proto import client_router_pb2, common_pb2
from troupe.errors import Error, make_error

MAGIC = b"TRPE"
CHECKSUM_CRC32 = 2
_PREAMBLE = struct.Struct("<4sBBBBQ")

BYTES_PER_ELEMENT = {
    common_pb2.F32: 4,
    common_pb2.F16: 2,
    common_pb2.BF16: 2,
    common_pb2.I32: 4,
    common_pb2.U8: 1,
}


@dataclass(frozen=True)
class RawTensor:
    """Bytes of a dense row-major tensor, with the wire's dtype number and the shape they were checked against."""

    dtype: common_pb2.DType
    shape: Tuple[int, ...]
    data: Any  # a C-contiguous buffer

    @property
    def num_bytes(self) -> int:
        return memoryview(self.data).nbytes


def checksum(data: Any) -> int:
    return zlib.crc32(data)


def describe(tensor: RawTensor, part: int) -> common_pb2.Tensor:
    """The envelope's description of a tensor that travels as part ``part`` (1: the first behind the envelope)."""
    return common_pb2.Tensor(dtype=tensor.dtype, shape=tensor.shape, checksum=checksum(tensor.data), part=part)


def pack(message: client_router_pb2.ClientToRouter, tensors: Sequence[RawTensor] = ()) -> List[Any]:
    """The parts of one multipart message."""
    envelope = message.SerializeToString()
    preamble = _PREAMBLE.pack(MAGIC, _limits.WIRE_MAJOR, _limits.WIRE_MINOR, CHECKSUM_CRC32, 0, checksum(envelope))
    return [preamble + envelope] + [tensor.data for tensor in tensors]


def unpack(parts: Sequence[Any]) -> client_router_pb2.RouterToClient:
    """The envelope of a received message; the tensors are read with :func:`tensor_of`.

    Raises Error ``wrong_version`` or ``corrupt``.
    """
    if not 1 <= len(parts) <= _limits.PARTS_PER_MESSAGE_MAX:
        raise _corrupt(f"message of {len(parts)} parts, at most {_limits.PARTS_PER_MESSAGE_MAX} are allowed")
    first = memoryview(parts[0])
    if first.nbytes < _PREAMBLE.size or first.nbytes > _PREAMBLE.size + _limits.ENVELOPE_BYTES_MAX:
        raise _corrupt(f"first part of {first.nbytes} bytes")
    magic, major, minor, kind, _, digest = _PREAMBLE.unpack_from(first)
    if magic != MAGIC:
        raise _corrupt("first part does not begin with the preamble")
    if major != _limits.WIRE_MAJOR:
        raise make_error(
            "wrong_version",
            f"the router speaks wire version {major}.{minor}, this client {_limits.WIRE_MAJOR}.{_limits.WIRE_MINOR}; "
            "install the client that belongs to the cluster",
        )
    if kind != CHECKSUM_CRC32:
        raise _corrupt(f"checksum kind {kind}, this client asked for CRC-32 ({CHECKSUM_CRC32})")
    envelope = first[_PREAMBLE.size :]
    if checksum(envelope) != digest:
        raise _corrupt("checksum of the envelope does not match")
    message = client_router_pb2.RouterToClient()
    try:
        message.ParseFromString(bytes(envelope))
    except Exception as cause:  # protobuf's DecodeError lives in different modules of its different versions
        raise _corrupt(f"envelope is not readable ({cause})") from cause
    return message


def tensor_of(parts: Sequence[Any], described: common_pb2.Tensor, name: str) -> RawTensor:
    """The tensor that the envelope calls ``name``, after its part, size and checksum were checked.

    Raises Error ``corrupt``.
    """
    if described.WhichOneof("place") != "part" or not 1 <= described.part < len(parts):
        raise _corrupt(f"tensor {name} names part {described.part} of a message of {len(parts)} parts")
    if described.dtype not in BYTES_PER_ELEMENT:
        raise _corrupt(f"tensor {name} has unknown dtype {described.dtype}")
    data = memoryview(parts[described.part])
    shape = tuple(described.shape)
    expected = BYTES_PER_ELEMENT[described.dtype]
    for extent in shape:
        expected *= extent
    if expected != data.nbytes:
        raise _corrupt(
            f"tensor {name} has shape {list(shape)}, which takes {expected} bytes; its part has {data.nbytes}"
        )
    if checksum(data) != described.checksum:
        raise _corrupt(f"checksum of tensor {name} does not match")
    return RawTensor(described.dtype, shape, data)


def _corrupt(what: str) -> Error:
    return make_error("corrupt", f"answer of the router is damaged: {what}; it was not used")
