"""Streams of tokens: what is asked, what has come so far, and how another router goes on with it. No sockets.

The token at a position depends on prompt, settings, seed and the tokens before it alone. So a stream that lost its
router is asked for again, at any router, with the tokens so far as ``resumed``: no token is lost and none comes twice.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

from troupe import _limits, _wire
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2
from troupe._requests import DEGRADE, Request, checked_timeout
from troupe.errors import InvalidRequest, make_error

# Text, token ids, or the messages of a chat.
Prompt = Union[str, Sequence[int], Sequence[Mapping[str, Any]]]

_REASONS = {pb.FINISH_STOP: "stop", pb.FINISH_LENGTH: "length"}
_INEXACT = {1: "substituted", 2: "renormalised", 4: "dropped", 16: "refreshed"}


@dataclass
class TopLogprob:
    """One of the most likely tokens at a position. ``logprob`` is natural, before temperature and cuts."""

    id: int
    text: str
    logprob: float


@dataclass
class Token:
    """One token of an answer.

    ``text`` is what became complete with it and may be shown: often a whole word, sometimes empty (a token may be
    a part of a character). The texts of all tokens together are the answer. ``logprob`` is natural, of the model's
    distribution before temperature and cuts; None with ``logprobs=False``. ``exact`` is False where an expert was
    missing; then ``inexact_reason`` is "substituted", "renormalised" or "dropped", ``inexact_layers`` says where.
    "refreshed": the stream was pinned to weights that were given up meanwhile, and went on with those that are served.
    ``finish_reason`` is "stop" or "length" for the last one, else None. ``position`` counts from 0. ``id`` is None only
    for text that was held back and comes after the last token.
    """

    id: Optional[int]
    text: str
    logprob: Optional[float] = None
    exact: bool = True
    finish_reason: Optional[str] = None
    position: int = 0
    top_logprobs: List[TopLogprob] = field(default_factory=list)
    inexact_reason: Optional[str] = None
    inexact_layers: List[int] = field(default_factory=list)


@dataclass(frozen=True)
class Usage:
    """Counts of a finished stream, in tokens. ``cached_tokens`` of the prompt were in the router's prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    approximate_tokens: int
    stop_match: Optional[str]  # the stop string that ended it


class GenerateRequest(Request):
    """``generate()``: the question, and the answer so far. The only request that changes while it is under way."""

    is_stream = True

    def __init__(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: Optional[int] = None,
        max_tokens: Optional[int] = None,
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        min_p: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        presence_penalty: Optional[float] = None,
        frequency_penalty: Optional[float] = None,
        logit_bias: Optional[Mapping[int, float]] = None,
        seed: Optional[int] = None,
        stop: Union[str, Sequence[str], None] = None,
        stop_token_ids: Optional[Sequence[int]] = None,
        ignore_eos: bool = False,
        logprobs: Union[bool, int] = True,
        top_logprobs: int = 0,
        skip_special_tokens: bool = True,
        add_special_tokens: bool = True,
        degrade: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> None:
        self.timeout = checked_timeout(timeout, _limits.GENERATE_TIMEOUT_DEFAULT, _limits.GENERATE_TIMEOUT_MAX)
        if degrade not in DEGRADE:
            raise InvalidRequest(f"degrade is {degrade!r}; use wait, substitute, renormalise or fail")
        if max_tokens is not None and max_new_tokens is not None:
            raise InvalidRequest("max_tokens and max_new_tokens are the same; give one of them")
        # Drawn here, so that every router that goes on with the stream draws the same tokens.
        self.seed = random.getrandbits(63) if seed is None else _integer("seed", seed, -(2**63), 2**64 - 1) % 2**64
        self.prompt_tokens: Optional[int] = None  # known once a router has accepted it
        self.usage: Optional[Usage] = None  # known in the end
        self._fails_at_once = degrade == "fail"
        self._received: List[int] = []  # ids; the next position is their number
        self._held: Optional[Token] = None  # the last one, until its reason is known
        self._last: Optional[Token] = None
        self._max_tokens: Optional[int] = None  # once accepted
        body = self._body = pb.GenerateRequest(
            ignore_eos=bool(ignore_eos),
            logprobs=bool(logprobs),
            skip_special_tokens=bool(skip_special_tokens),
            add_special_tokens=bool(add_special_tokens),
            degrade=DEGRADE[degrade],
        )
        _fill_prompt(body, prompt)
        limit = max_tokens if max_tokens is not None else max_new_tokens
        if limit is not None:
            body.max_tokens = _integer("max_tokens", limit, 1, 2**32 - 1)
        top = logprobs if logprobs is not True and logprobs is not False else 0
        body.top_logprobs = _integer("top_logprobs", max(top_logprobs, top), 0, _limits.TOP_LOGPROBS_MAX)
        body.stop.extend([stop] if isinstance(stop, str) else list(stop or []))
        body.stop_token_ids.extend(_token_ids("stop_token_ids", stop_token_ids or []))
        sampling = body.sampling
        sampling.seed = self.seed
        if top_k is not None:
            sampling.top_k = _integer("top_k", max(top_k, 0), 0, 2**32 - 1)  # -1 is vLLM's word for all
        for name, value in (
            ("temperature", temperature),
            ("top_p", top_p),
            ("min_p", min_p),
            ("repetition_penalty", repetition_penalty),
            ("presence_penalty", presence_penalty),
            ("frequency_penalty", frequency_penalty),
        ):
            if value is not None:
                setattr(sampling, name, _number(name, value))
        for token, bias in (logit_bias or {}).items():
            sampling.logit_bias[_integer("logit_bias", int(token), 0, 2**32 - 1)] = _number("logit_bias", bias)

    @property
    def is_accepted(self) -> bool:
        """Whether a router has begun with it: from then on it is moved rather than given up."""
        return self.prompt_tokens is not None

    def parts(self, request_id: int, client_id: str, timeout_ms: int) -> List[Any]:
        body = self._body
        body.request_id, body.client_id, body.timeout_ms = request_id, client_id, timeout_ms
        del body.resumed[:]
        body.resumed.extend(self._received)
        return _wire.pack(pb.ClientToRouter(generate=body))

    def absorb(self, event: pb.GenerateEvent) -> List[Token]:
        """The tokens that an event brings, in order. Raises Error ``corrupt`` when one between is missing."""
        if event.HasField("accepted"):
            self.prompt_tokens = event.accepted.prompt_tokens
            self._max_tokens = event.accepted.max_tokens or None
        tokens: List[Token] = []
        for received in event.tokens:
            if received.position > len(self._received):
                raise make_error(
                    "corrupt", f"token {len(self._received)} of the stream is missing, {received.position} came"
                )
            if received.position == len(self._received):  # an earlier one has come already
                self._received.append(received.id)
                tokens.append(_token_of(received))
        if self._held is not None:
            tokens.insert(0, self._held)
            self._held = None
        if event.HasField("end"):
            self._close(event.end, tokens)
        elif tokens and len(self._received) == self._max_tokens:
            self._held = tokens.pop()  # it is the last one: its reason comes next
        if tokens:
            self._last = tokens[-1]
        return tokens

    def goes_on(self, failure: pb.Failure) -> bool:
        """Whether another try, elsewhere or later, is better than telling the caller."""
        code = failure.error.code
        if failure.elsewhere:
            return True
        if code == common_pb2.UNAVAILABLE:
            # With "fail" the caller wants to know when an expert is missing, wherever it is asked for.
            return not self._fails_at_once
        return code == common_pb2.OVERLOADED and self.is_accepted

    def _close(self, end: pb.GenerateEnd, tokens: List[Token]) -> None:
        reason = _REASONS.get(end.reason, "stop")
        self.usage = Usage(
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.cached_tokens,
            completion_tokens=end.answer_tokens,
            approximate_tokens=end.approximate_tokens,
            stop_match=end.stop_match if end.HasField("stop_match") else None,
        )
        if not tokens and (end.text or self._last is None):
            tokens.append(Token(id=None, text="", position=len(self._received)))
        last = tokens[-1] if tokens else self._last
        if last is not None:
            last.text += end.text
            last.finish_reason = reason


class TokenizeRequest(Request):
    """``tokenize()`` (text or messages -> ids) and ``detokenize()`` (ids -> text)."""

    def __init__(self, given: Prompt, add_special: bool, timeout: Optional[float]) -> None:
        self.timeout = checked_timeout(timeout, _limits.INFO_TIMEOUT_DEFAULT)
        self._body = pb.TokenizeRequest(add_special_tokens=add_special)
        _fill_prompt(self._body, given)

    def parts(self, request_id: int, client_id: str, timeout_ms: int) -> List[Any]:
        self._body.request_id = request_id
        return _wire.pack(pb.ClientToRouter(tokenize=self._body))

    def decode(self, message: pb.RouterToClient, parts: Sequence[Any]) -> Tuple[List[int], str]:
        if message.WhichOneof("body") != "tokenize":
            raise make_error("corrupt", "the router answered a tokenize request with something else; check its version")
        return list(message.tokenize.tokens), message.tokenize.text


def cancel_parts(request_id: int, client_id: str) -> List[Any]:
    """The message that ends a stream at its router."""
    return _wire.pack(pb.ClientToRouter(cancel=pb.CancelRequest(request_id=request_id, client_id=client_id)))


def _fill_prompt(body: Any, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        body.text = prompt
        return
    if isinstance(prompt, (bytes, Mapping)):
        raise InvalidRequest("prompt is neither text, nor a list of token ids, nor a list of messages")
    given = list(prompt)
    if given and all(isinstance(one, Mapping) for one in given):
        try:
            body.messages_json = json.dumps(given)
        except (TypeError, ValueError) as cause:
            raise InvalidRequest(f"messages cannot be written as JSON ({cause}); use plain dicts and texts") from cause
    else:
        body.tokens.SetInParent()
        body.tokens.ids.extend(_token_ids("prompt", given))


def _token_of(received: pb.GeneratedToken) -> Token:
    return Token(
        id=received.id,
        text=received.text,
        logprob=received.logprob if received.HasField("logprob") else None,
        exact=received.flags == 0,
        position=received.position,
        top_logprobs=[TopLogprob(one.id, one.text, one.logprob) for one in received.top],
        inexact_reason=next((name for bit, name in _INEXACT.items() if received.flags & bit), None),
        inexact_layers=list(received.inexact_layers),
    )


def _integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = value.__index__()  # also numpy's and torch's integers
    except (AttributeError, TypeError):
        raise InvalidRequest(f"{name} is {value!r}; use an integer") from None
    if not low <= number <= high:
        raise InvalidRequest(f"{name} is {number}; use {low} to {high}")
    return int(number)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name} is {value!r}; use a number") from None
    if not math.isfinite(number):
        raise InvalidRequest(f"{name} is {number}; use a finite number")
    return number


def _token_ids(name: str, ids: Sequence[Any]) -> List[int]:
    return [_integer(f"{name}[{place}]", one, 0, 2**32 - 1) for place, one in enumerate(ids)]
