"""The safetensors format in a few lines of numpy; bf16 is widened to f32 when read. Independent of the code under test."""
import json
import struct

import numpy as np

READ = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
NAMES = {np.dtype(v): k for k, v in READ.items()}


def widen(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values):
    """float32 -> bf16 bits, round to nearest even; finite values only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def decode(raw):
    """-> (tensors by name, metadata)"""
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:begin])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        data = raw[begin + first : begin + last]
        values = widen(np.frombuffer(data, np.uint16)) if entry["dtype"] == "BF16" else np.frombuffer(data, READ[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors, metadata


def encode(tensors, metadata=None, bf16=()):
    """The document's bytes; float32 tensors named in `bf16` are stored as BF16."""
    header, parts, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for name, values in tensors.items():
        as_bf16 = name in bf16
        data = (narrow(values) if as_bf16 else np.ascontiguousarray(values)).tobytes()
        header[name] = {"dtype": "BF16" if as_bf16 else NAMES[values.dtype], "shape": list(values.shape),
                        "data_offsets": [offset, offset + len(data)]}
        parts.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def load(path):
    return decode(path.read_bytes())[0]
