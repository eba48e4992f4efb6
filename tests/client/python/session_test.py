"""The session alone: no sockets, and a clock that the test moves."""

from __future__ import annotations

from typing import Any, List

import numpy as np
import pytest
import troupe
from fake_router import CLUSTER, failure, layer_reply, pack
from troupe import _limits
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2
from troupe._requests import LayerRequest
from troupe._session import Close, Connect, Send, Session

HIDDEN = np.ones((2, 4), np.float32)


def request(timeout: float = 10.0) -> LayerRequest:
    return LayerRequest(0, HIDDEN, None, timeout)


def sent(command: Any) -> pb.ClientToRouter:
    assert isinstance(command, Send)
    return pb.ClientToRouter.FromString(command.parts[0][16:])


def welcome(session: Session, now: float) -> None:
    session.on_message(pack(pb.RouterToClient(welcome=common_pb2.Welcome(wire_major=1, cluster_id=CLUSTER))), now)


def connected(addresses: List[str]) -> Session:
    """A session that has one request, number 1, at its first router since time 0."""
    session = Session(addresses, "client")
    session.submit(1, request(), 0.0)
    connect, hello = session.take_commands()
    assert connect == Connect(addresses[0]) and sent(hello).WhichOneof("body") == "hello"
    welcome(session, 0.0)
    (asked,) = session.take_commands()
    assert sent(asked).layer.request_id == 1
    return session


def test_an_answer_finishes_its_request() -> None:
    session = connected(["a"])
    session.on_message(layer_reply(1, HIDDEN, common_pb2.F32), 1.0)
    ((number, result),) = session.take_finished()
    assert number == 1 and np.array_equal(result.output, 2 * HIDDEN)
    assert session.wake_at() is None and session.take_commands() == []


def test_a_lost_router_is_followed_by_the_next_with_the_time_that_is_left() -> None:
    session = connected(["a", "b"])
    session.on_lost("gone", 4.0)
    close, connect, _ = session.take_commands()
    assert (close, connect) == (Close(), Connect("b"))
    welcome(session, 4.0)
    (asked,) = session.take_commands()
    assert sent(asked).layer.request_id == 1 and sent(asked).layer.timeout_ms == 6000


def test_pauses_between_rounds_grow_to_their_limit() -> None:
    session = Session(["a", "b"], "client", jitter=lambda: 1.0)
    session.submit(1, request(300.0), 0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        for _ in ("a", "b"):
            session.take_commands()
            session.on_lost("nobody", now)
        wake_at = session.wake_at()
        assert wake_at is not None
        pauses.append(round(wake_at - now, 6))
        now = wake_at
        session.on_time(now)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_router_that_does_not_greet_is_given_up() -> None:
    session = Session(["a", "b"], "client")
    session.submit(1, request(), 0.0)
    session.take_commands()
    assert session.wake_at() == _limits.HANDSHAKE_TIMEOUT
    session.on_time(_limits.HANDSHAKE_TIMEOUT)
    assert session.take_commands()[1] == Connect("b")


def test_the_routers_verdict_is_waited_for_a_little() -> None:
    session = connected(["a"])
    session.on_time(10.0)
    assert session.take_finished() == [] and session.wake_at() == 10.0 + _limits.ANSWER_GRACE
    session.on_time(10.0 + _limits.ANSWER_GRACE)
    ((_, error),) = session.take_finished()
    assert isinstance(error, troupe.Timeout)


def test_without_a_router_the_deadline_is_kept_to_the_point() -> None:
    session = Session(["a"], "client")
    session.submit(1, request(1.0), 0.0)
    session.on_time(1.0)
    ((_, error),) = session.take_finished()
    assert isinstance(error, troupe.Unavailable)


def test_in_progress_pauses_as_the_router_hints() -> None:
    session = connected(["a"])
    session.on_message(failure(1, common_pb2.IN_PROGRESS, "wait", retry_after_ms=700), 1.0)
    assert session.take_commands() == [] and session.wake_at() == pytest.approx(1.7)
    session.on_time(1.7)
    (asked,) = session.take_commands()
    assert sent(asked).layer.request_id == 1


def test_a_refusal_counts_only_when_every_router_refuses() -> None:
    session = Session(["a", "b"], "client")
    session.submit(1, request(), 0.0)
    denied = troupe.PermissionDenied("no")
    session.on_lost("no", 0.0, denied)
    assert session.take_finished() == []
    session.on_lost("no", 0.0, denied)
    assert session.take_finished() == [(1, denied)]


def test_requests_in_flight_are_bounded() -> None:
    session = Session(["a"], "client")
    for number in range(_limits.REQUESTS_IN_FLIGHT_MAX + 1):
        session.submit(number, request(), 0.0)
    ((number, error),) = session.take_finished()
    assert number == _limits.REQUESTS_IN_FLIGHT_MAX and isinstance(error, troupe.Overloaded)


def test_answers_to_nobody_are_counted() -> None:
    session = connected(["a"])
    session.cancel(1)
    session.on_message(layer_reply(1, HIDDEN, common_pb2.F32), 1.0)
    session.on_message(failure(1, common_pb2.INTERNAL, "late"), 1.0)
    assert session.stray_answers == 2 and session.take_finished() == []
