"""What callers can ask for: each request knows its envelope, its tensors and how to read the answer. No sockets."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Union

from troupe import _limits, _tensors, _wire
from troupe._proto import client_router_pb2 as pb
from troupe._wire import RawTensor
from troupe.errors import InvalidRequest, make_error

Layer = Union[int, str]

DEGRADE = {
    None: pb.DEGRADE_UNSPECIFIED,
    "wait": pb.WAIT,
    "substitute": pb.SUBSTITUTE,
    "renormalise": pb.RENORMALISE,
    "fail": pb.FAIL,
}

EXACT = 0
SUBSTITUTED = 1
RENORMALISED = 2
DROPPED = 4


@dataclass(frozen=True)
class LayerResult:
    """The answer of one MoE block for T rows. Arrays belong to the caller and may be written to.

    ``output`` [T, H] is the whole block, shared experts included (for ``experts()``: the weighted sum) and
    ``routed_output`` [T, H] the routed experts alone, both in the request's dtype; ``expert_ids`` [T, k] int32 and
    ``expert_weights`` [T, k] float32 are the router's choice before capacity; ``flags`` [T] uint8 has 0 for exact rows,
    else the bits SUBSTITUTED, RENORMALISED, DROPPED; ``epoch`` numbers the cluster map that the router worked by.
    """

    output: Any
    routed_output: Any
    expert_ids: Any
    expert_weights: Any
    flags: Any
    epoch: int

    @property
    def exact(self) -> bool:
        """Whether no row was substituted, renormalised or dropped."""
        return not self.flags.any()


class Request:
    """One question to a router. Immutable, so that it can be sent again under the same id."""

    timeout: float
    is_stream = False  # answered by many messages; see _streams.GenerateRequest
    rows: int = 0
    tensors: Sequence[RawTensor] = ()

    def parts(self, request_id: int, client_id: str, timeout_ms: int) -> List[Any]:
        """The multipart message that asks it; empty when a router's Welcome is all the answer that is wanted."""
        raise NotImplementedError

    def decode(self, message: pb.RouterToClient, parts: Sequence[Any]) -> Any:
        """The result for the caller. Raises Error ``corrupt`` when the answer is none to this question."""
        raise NotImplementedError


class LayerRequest(Request):
    """``layer()`` or, with ids and weights, ``experts()``."""

    def __init__(
        self,
        layer: Layer,
        hidden: Any,
        degrade: Optional[str],
        timeout: Optional[float],
        ids: Any = None,
        weights: Any = None,
    ) -> None:
        self._layer = layer_text(layer)
        self.timeout = checked_timeout(timeout, _limits.REQUEST_TIMEOUT_DEFAULT)
        if degrade not in DEGRADE:
            raise InvalidRequest(f"degrade is {degrade!r}; use wait, substitute, renormalise or fail")
        self._degrade = DEGRADE[degrade]
        hidden_tensor, self._bf16_as_torch = _tensors.hidden_tensor(hidden)
        self.tensors = [hidden_tensor]
        self.rows = hidden_tensor.shape[0]
        self._chosen = ids is not None
        if self._chosen:
            self._add_choice(ids, weights)

    def _add_choice(self, ids: Any, weights: Any) -> None:
        chosen, weighed = _tensors.ids_tensor(ids), _tensors.weights_tensor(weights)
        if chosen.shape != weighed.shape or chosen.shape[0] != self.rows:
            raise InvalidRequest(
                f"hidden has {self.rows} rows, ids have shape {list(chosen.shape)} and weights {list(weighed.shape)}; "
                "ids and weights must both be [rows, k]"
            )
        if self._degrade == pb.SUBSTITUTE:
            raise InvalidRequest("degrade is 'substitute', but the caller chose the experts; use renormalise or fail")
        self.tensors = [*self.tensors, chosen, weighed]

    def parts(self, request_id: int, client_id: str, timeout_ms: int) -> List[Any]:
        described = [_wire.describe(tensor, number) for number, tensor in enumerate(self.tensors, start=1)]
        common: Dict[str, Any] = dict(
            request_id=request_id,
            client_id=client_id,
            layer=self._layer,
            hidden=described[0],
            degrade=self._degrade,
            timeout_ms=timeout_ms,
        )
        if self._chosen:
            body = pb.ExpertsRequest(expert_ids=described[1], expert_weights=described[2], **common)
            return _wire.pack(pb.ClientToRouter(experts=body), self.tensors)
        return _wire.pack(pb.ClientToRouter(layer=pb.LayerRequest(**common)), self.tensors)

    def decode(self, message: pb.RouterToClient, parts: Sequence[Any]) -> LayerResult:
        if message.WhichOneof("body") != "layer":
            raise make_error("corrupt", "the router answered a layer request with something else; check its version")
        reply = message.layer
        output = _wire.tensor_of(parts, reply.output, "output")
        routed = _wire.tensor_of(parts, reply.routed_output, "routed_output")
        ids = _wire.tensor_of(parts, reply.expert_ids, "expert_ids")
        weights = _wire.tensor_of(parts, reply.expert_weights, "expert_weights")
        flags = _wire.tensor_of(parts, reply.flags, "flags")
        hidden = self.tensors[0]
        for name, tensor in (("output", output), ("routed_output", routed)):
            if tensor.shape != hidden.shape or tensor.dtype != hidden.dtype:
                raise make_error("corrupt", f"{name} has shape {list(tensor.shape)}, hidden {list(hidden.shape)}")
        if ids.shape != weights.shape or ids.shape[0] != self.rows or flags.shape != (self.rows,):
            raise make_error("corrupt", f"expert_ids {list(ids.shape)}, weights {list(weights.shape)} do not fit")
        output_array = _tensors.to_array(output, self._bf16_as_torch)
        # Equal tensors travel as one part; the caller gets two that can be changed independently.
        shared = reply.output.part == reply.routed_output.part
        return LayerResult(
            output=output_array,
            routed_output=_copy(output_array) if shared else _tensors.to_array(routed, self._bf16_as_torch),
            expert_ids=_tensors.to_array(ids),
            expert_weights=_tensors.to_array(weights),
            flags=_tensors.to_array(flags),
            epoch=reply.epoch,
        )


class InfoRequest(Request):
    """``status()``, ``nodes()``, ``list_experts()`` and ``model()``."""

    def __init__(self, kind: pb.InfoKind, timeout: Optional[float], layer: Optional[Layer] = None) -> None:
        self._kind = kind
        self._layer = "" if layer is None else layer_text(layer)
        self.timeout = checked_timeout(timeout, _limits.INFO_TIMEOUT_DEFAULT)

    def parts(self, request_id: int, client_id: str, timeout_ms: int) -> List[Any]:
        body = pb.InfoRequest(request_id=request_id, kind=self._kind, layer=self._layer)
        return _wire.pack(pb.ClientToRouter(info=body))

    def decode(self, message: pb.RouterToClient, parts: Sequence[Any]) -> Any:
        if message.WhichOneof("body") != "info":
            raise make_error("corrupt", "the router answered an info request with something else; check its version")
        try:
            document = json.loads(message.info.json)
        except ValueError as cause:
            raise make_error("corrupt", f"the router's document is no JSON ({cause}); check its version") from cause
        if not isinstance(document, dict):
            raise make_error("corrupt", "the router's document is no JSON object; check its version")
        if self._kind in (pb.NODES, pb.EXPERTS):
            return list(document.get("items", []))
        return document


class Greeting(Request):
    """Over with None as soon as a router has welcomed this client."""

    def __init__(self, timeout: Optional[float]) -> None:
        self.timeout = checked_timeout(timeout, _limits.CONNECT_TIMEOUT_DEFAULT)

    def parts(self, request_id: int, client_id: str, timeout_ms: int) -> List[Any]:
        return []


def layer_text(layer: Layer) -> str:
    """``3`` -> "3"; "3", "encoder.3" and "decoder.1" stay. Raises InvalidRequest."""
    text = str(layer) if not isinstance(layer, bool) else ""
    stack, dot, block = text.rpartition(".")
    if dot and stack not in ("encoder", "decoder") or not (block.isascii() and block.isdigit()):
        raise InvalidRequest(f"layer is {layer!r}; use the block's number, or 'encoder.N' or 'decoder.N'")
    return text


def checked_timeout(timeout: Optional[float], default: float, longest: float = _limits.REQUEST_TIMEOUT_MAX) -> float:
    """Seconds. Raises InvalidRequest unless 0 < timeout <= the limit."""
    if timeout is None:
        return default
    if not math.isfinite(timeout) or not 0 < timeout <= longest:
        raise InvalidRequest(f"timeout is {timeout} s; use more than 0 and at most {longest:.0f} s")
    return float(timeout)


def _copy(array: Any) -> Any:
    return array.clone() if _tensors.is_torch(array) else array.copy()
