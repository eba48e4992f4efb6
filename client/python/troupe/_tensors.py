"""Between the arrays that callers have and the tensors of the wire. torch and ml_dtypes are never imported unasked."""

from __future__ import annotations

import sys
from typing import Any, Dict, Optional, Tuple

import numpy as np

from troupe._proto import common_pb2
from troupe._wire import RawTensor
from troupe.errors import InvalidRequest

_NUMPY_TO_WIRE = {"float32": common_pb2.F32, "float16": common_pb2.F16, "bfloat16": common_pb2.BF16}
_WIRE_TO_NUMPY: Dict[int, Any] = {
    common_pb2.F32: np.dtype("<f4"),
    common_pb2.F16: np.dtype("<f2"),
    common_pb2.I32: np.dtype("<i4"),
    common_pb2.U8: np.dtype("u1"),
}


def is_torch(value: Any) -> bool:
    """Whether ``value`` is a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def hidden_tensor(value: Any) -> Tuple[RawTensor, bool]:
    """``hidden`` [T, H] for the wire, and whether bfloat16 results should come back as torch tensors.

    Accepts float32, float16 and bfloat16 (ml_dtypes) arrays and torch tensors; numbers in lists count as float32.
    Raises InvalidRequest.
    """
    if is_torch(value):
        return _from_torch(value)
    # A list has no dtype of its own; numpy would make it float64, which no router takes.
    array = np.asarray(value) if hasattr(value, "__array__") else _float_list(value)
    kind = _NUMPY_TO_WIRE.get(array.dtype.name)
    if kind is None:
        raise InvalidRequest(f"hidden has dtype {array.dtype}; use float32, float16 or bfloat16")
    _check_rows("hidden", array.shape)
    return RawTensor(kind, array.shape, _bytes_of(array)), False


def ids_tensor(value: Any) -> RawTensor:
    """``ids`` [T, k] as i32. Raises InvalidRequest when they are no integers or do not fit."""
    array = np.asarray(_cpu_array(value))
    if array.dtype.kind not in "iu":
        raise InvalidRequest(f"ids have dtype {array.dtype}; use integers")
    _check_rows("ids", array.shape)
    if array.min() < -1 or array.max() > np.iinfo(np.int32).max:
        raise InvalidRequest(f"ids go from {array.min()} to {array.max()}; use expert numbers, or -1 for no expert")
    return RawTensor(common_pb2.I32, array.shape, _bytes_of(array.astype("<i4", copy=False)))


def weights_tensor(value: Any) -> RawTensor:
    """``weights`` [T, k] as f32. Raises InvalidRequest."""
    array = np.asarray(_cpu_array(value))
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise InvalidRequest(f"weights have dtype {array.dtype}; use float32")
    _check_rows("weights", array.shape)
    return RawTensor(common_pb2.F32, array.shape, _bytes_of(array.astype("<f4", copy=False)))


def to_array(tensor: RawTensor, bf16_as_torch: bool = False) -> Any:
    """A numpy array over the tensor's bytes: no copy unless they are unaligned or read-only.

    bfloat16 becomes an ml_dtypes array; without ml_dtypes a torch tensor if ``bf16_as_torch``, else InvalidRequest.
    """
    if tensor.dtype == common_pb2.BF16:
        bits = _own(np.frombuffer(tensor.data, dtype="<u2")).reshape(tensor.shape)
        bfloat16 = _ml_bfloat16()
        if bfloat16 is not None:
            return bits.view(bfloat16)
        if bf16_as_torch:
            torch = sys.modules["torch"]
            return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
        raise InvalidRequest("numpy has no bfloat16; install ml_dtypes, or pass float32 or a torch tensor")
    return _own(np.frombuffer(tensor.data, dtype=_WIRE_TO_NUMPY[tensor.dtype])).reshape(tensor.shape)


def to_torch(value: Any) -> Any:
    """A torch tensor over the memory of a result array (or the tensor itself)."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def _from_torch(tensor: Any) -> Tuple[RawTensor, bool]:
    torch = sys.modules["torch"]
    kinds = {torch.float32: common_pb2.F32, torch.float16: common_pb2.F16, torch.bfloat16: common_pb2.BF16}
    kind = kinds.get(tensor.dtype)
    if kind is None:
        raise InvalidRequest(f"hidden has dtype {tensor.dtype}; use float32, float16 or bfloat16")
    shape = tuple(tensor.shape)
    _check_rows("hidden", shape)
    plain = tensor.detach().cpu().contiguous()
    if kind == common_pb2.BF16:
        plain = plain.view(torch.int16)
    return RawTensor(kind, shape, _bytes_of(plain.numpy())), kind == common_pb2.BF16


def _cpu_array(value: Any) -> Any:
    if not is_torch(value):
        return value
    plain = value.detach().cpu()
    return plain.float().numpy() if plain.is_floating_point() else plain.numpy()


def _float_list(value: Any) -> Any:
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as cause:
        raise InvalidRequest(f"hidden is no array of numbers ({cause}); pass [T, H]") from cause


def _check_rows(name: str, shape: Tuple[int, ...]) -> None:
    if len(shape) != 2 or 0 in shape:
        raise InvalidRequest(f"{name} has shape {list(shape)}; pass two dimensions, both at least 1")


def _bytes_of(array: Any) -> Any:
    """The bytes as libzmq takes them: C order, little-endian, a plain byte view (ml_dtypes has no buffer format)."""
    contiguous: Any = np.ascontiguousarray(array)
    if contiguous.dtype.byteorder == ">" or (contiguous.dtype.byteorder == "=" and sys.byteorder == "big"):
        contiguous = contiguous.byteswap()
    return memoryview(contiguous.reshape(-1).view(np.uint8))


def _own(array: Any) -> Any:
    return array if array.flags.writeable and array.flags.aligned else array.copy()


def _ml_bfloat16() -> Optional[Any]:
    try:
        import ml_dtypes
    except ImportError:
        return None
    return np.dtype(ml_dtypes.bfloat16)
