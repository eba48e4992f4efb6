"""How a stream goes on when its router does not: the session alone, without sockets, the test moves the clock."""

from __future__ import annotations

from typing import Any, List, Optional

import pytest
import troupe
from fake_router import CLUSTER, Story, failure, pack
from troupe import _limits
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2
from troupe._session import Connect, Send, Session
from troupe._streams import GenerateRequest

STORY = Story()


def sent(command: Any) -> pb.ClientToRouter:
    assert isinstance(command, Send)
    return pb.ClientToRouter.FromString(command.parts[0][16:])


def welcome(session: Session, now: float) -> None:
    session.on_message(pack(pb.RouterToClient(welcome=common_pb2.Welcome(wire_major=1, cluster_id=CLUSTER))), now)


def asked(session: Session) -> pb.GenerateRequest:
    """The one request that is being sent."""
    (generate,) = [sent(one).generate for one in session.take_commands() if isinstance(one, Send)]
    return generate


def begin(addresses: List[str], **options: Any) -> Session:
    """A session with a stream, number 1, at its first router since time 0."""
    session = Session(addresses, "client", jitter=lambda: 1.0)
    session.submit(1, GenerateRequest("once", **{"max_tokens": 8, "seed": 5, "timeout": 100.0, **options}), 0.0)
    session.take_commands()
    welcome(session, 0.0)
    assert list(asked(session).resumed) == []
    return session


def event(session: Session, now: float, *positions: int, end: Optional[pb.GenerateEnd] = None, **more: Any) -> None:
    tokens = [STORY.token(position) for position in positions]
    one = pb.GenerateEvent(request_id=1, tokens=tokens, end=end, **more)
    session.on_message(pack(pb.RouterToClient(generate=pb.GenerateEvents(events=[one]))), now)


def accept(session: Session, now: float) -> None:
    event(session, now, accepted=pb.GenerateAccepted(prompt_tokens=3, seed=5, max_tokens=8))


def positions(session: Session) -> List[int]:
    return [token.position for _, tokens in session.take_streamed() for token in tokens]


def end(reason: int = pb.FINISH_STOP, **more: Any) -> pb.GenerateEnd:
    return pb.GenerateEnd(reason=reason, **more)


def test_p3_the_next_router_gets_the_tokens_so_far_and_the_time_that_is_left() -> None:
    session = begin(["a", "b"])
    accept(session, 0.0)
    event(session, 1.0, 0, 1, 2)
    assert positions(session) == [0, 1, 2]
    session.on_lost("killed", 4.0)
    assert Connect("b") in session.take_commands()
    welcome(session, 4.0)
    again = asked(session)
    assert list(again.resumed) == [100, 101, 102] and again.request_id == 1
    assert (again.sampling.seed, again.text, again.max_tokens, again.timeout_ms) == (5, "once", 8, 96000)
    accept(session, 4.0)
    event(session, 4.5, 3, end=end())
    assert positions(session) == [3] and session.take_finished() == [(1, None)]


def test_p3_a_token_that_comes_twice_is_told_once() -> None:
    session = begin(["a", "b"])
    event(session, 1.0, 0, 1)
    event(session, 1.0, 0, 1, 2)
    assert positions(session) == [0, 1, 2]


def test_p3_a_gap_is_not_told_but_asked_for_again() -> None:
    session = begin(["a", "b"])
    event(session, 1.0, 0, 1)
    event(session, 1.0, 3)
    assert positions(session) == [0, 1]
    assert Connect("b") in session.take_commands()
    welcome(session, 1.0)
    assert list(asked(session).resumed) == [100, 101]


def test_p3_a_router_that_leaves_is_left_at_once() -> None:
    session = begin(["a", "b"], degrade="fail")
    event(session, 1.0, 0)
    leaving = pb.Failure(request_id=1, error=common_pb2.Error(code=common_pb2.UNAVAILABLE), elsewhere=True)
    session.on_message(pack(pb.RouterToClient(failure=leaving)), 2.0)
    assert Connect("b") in session.take_commands()
    welcome(session, 2.0)
    assert list(asked(session).resumed) == [100]


def test_a_missing_expert_is_told_to_callers_that_want_to_know() -> None:
    session = begin(["a", "b"], degrade="fail")
    session.on_message(failure(1, common_pb2.UNAVAILABLE, "no replica of expert 3/7"), 1.0)
    ((_, error),) = session.take_finished()
    assert isinstance(error, troupe.Unavailable) and "3/7" in str(error)


def test_retries_are_bounded_and_pause_longer_each_time() -> None:
    session = begin(["a", "b"])
    accept(session, 0.0)
    now, pauses = 0.0, []
    for _ in range(_limits.ATTEMPTS_PER_REQUEST_MAX):
        session.on_message(failure(1, common_pb2.UNAVAILABLE, "no engine"), now)
        if session.take_finished():
            break
        session.take_commands()
        welcome(session, now)
        begun = now
        if not session.take_commands():
            wake_at = session.wake_at()
            assert wake_at is not None
            now = wake_at
            session.on_time(now)
            assert asked(session).request_id == 1
        pauses.append(round(now - begun, 6))
    assert pauses[:5] == [0.0, 0.2, 0.4, 0.8, 1.0] and len(pauses) == _limits.ATTEMPTS_PER_REQUEST_MAX - 1


def test_a_full_router_is_asked_later_by_a_stream_that_has_begun_and_told_by_a_new_one() -> None:
    session = begin(["a"])
    session.on_message(failure(1, common_pb2.OVERLOADED, "full", retry_after_ms=3000), 1.0)
    ((_, error),) = session.take_finished()
    assert isinstance(error, troupe.Overloaded) and error.retry_after == 3.0
    session = begin(["a"])
    accept(session, 0.0)
    session.on_message(failure(1, common_pb2.OVERLOADED, "full", retry_after_ms=3000), 1.0)
    assert session.take_finished() == [] and session.wake_at() == 4.0
    session.on_time(4.0)
    assert asked(session).request_id == 1


def test_p3_a_silent_router_is_left_but_not_one_that_says_it_is_alive() -> None:
    session = begin(["a", "b"])
    limit = _limits.STREAM_SILENCE_MAX
    event(session, 1.0, 0)
    event(session, limit)  # alive
    assert session.wake_at() == 2 * limit
    session.on_time(2 * limit - 0.5)
    assert session.take_commands() == []
    session.on_time(2 * limit)
    assert Connect("b") in session.take_commands()


def test_a_stream_without_any_router_is_not_looked_after_for_ever() -> None:
    session = begin(["a"])
    accept(session, 0.0)
    now = 1.0
    session.on_lost("killed", now)
    while not (finished := session.take_finished()):
        wake_at = session.wake_at()
        assert wake_at is not None and wake_at > now
        now = wake_at
        session.on_time(now)
        session.on_lost("nobody answers", now)
    assert now == pytest.approx(1.0 + _limits.STREAM_HOMELESS_MAX)
    ((_, error),) = finished
    assert isinstance(error, troupe.Unavailable) and "no router answered" in str(error)


def test_the_last_token_has_the_reason_whenever_it_comes() -> None:
    session = begin(["a"])
    accept(session, 0.0)
    event(session, 1.0, *range(8))  # the router is as slow as can be in saying that it was the last
    assert positions(session) == list(range(7))
    event(session, 2.0, end=end(pb.FINISH_LENGTH))
    ((_, (last,)),) = session.take_streamed()
    assert (last.position, last.finish_reason) == (7, "length")
    assert session.take_finished() == [(1, None)]


def test_p3_a_router_lost_between_the_last_token_and_the_end() -> None:
    session = begin(["a", "b"])
    accept(session, 0.0)
    event(session, 1.0, 0, 1)
    ((_, tokens),) = session.take_streamed()
    session.on_lost("killed", 1.0)
    session.take_commands()
    welcome(session, 1.0)
    assert list(asked(session).resumed) == [100, 101]
    event(session, 2.0, end=end(text=""))
    assert session.take_streamed() == [] and tokens[-1].finish_reason == "stop"
    assert session.take_finished() == [(1, None)]


def test_text_that_was_held_back_belongs_to_the_last_token() -> None:
    session = begin(["a"])
    event(session, 1.0, 0, end=end(text="tail"))
    ((_, (last,)),) = session.take_streamed()
    assert (last.text, last.finish_reason) == ("0 tail", "stop")


def test_p13_a_stream_that_is_given_up_is_cancelled_at_its_router() -> None:
    session = begin(["a"])
    session.cancel(1)
    (cancel,) = session.take_commands()
    assert (sent(cancel).cancel.request_id, sent(cancel).cancel.client_id) == (1, "client")
    event(session, 1.0, 0)  # on its way
    assert session.take_streamed() == [] and session.stray_answers == 1


def test_many_streams_go_over_one_connection() -> None:
    session = begin(["a"])
    for number in range(2, 202):
        session.submit(number, GenerateRequest("x"), 0.0)
    assert len(session.take_commands()) == 200


def test_the_request_says_all_that_was_asked() -> None:
    request = GenerateRequest(
        [{"role": "user", "content": "hi"}],
        max_new_tokens=4,
        temperature=0,
        top_k=-1,
        top_p=0.5,
        min_p=0.25,
        repetition_penalty=1.5,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={7: 2.5},
        seed=-1,
        stop="end",
        stop_token_ids=[3],
        ignore_eos=True,
        logprobs=2,
        skip_special_tokens=False,
        degrade="renormalise",
    )
    body = pb.ClientToRouter.FromString(request.parts(9, "me", 5000)[0][16:]).generate
    assert body.messages_json == '[{"role": "user", "content": "hi"}]'
    assert (body.request_id, body.client_id, body.timeout_ms, body.max_tokens) == (9, "me", 5000, 4)
    sampling = body.sampling
    assert sampling.HasField("temperature") and (sampling.temperature, sampling.top_k) == (0.0, 0)
    assert (sampling.top_p, sampling.min_p, sampling.repetition_penalty) == (0.5, 0.25, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty, dict(sampling.logit_bias)) == (1, -1, {7: 2.5})
    assert sampling.seed == 2**64 - 1
    assert (list(body.stop), list(body.stop_token_ids), body.ignore_eos) == (["end"], [3], True)
    assert (body.logprobs, body.top_logprobs, body.skip_special_tokens) == (True, 2, False)
    assert body.degrade == pb.RENORMALISE


def test_what_is_not_said_is_left_to_the_router() -> None:
    body = pb.ClientToRouter.FromString(GenerateRequest([1, 2]).parts(1, "me", 0)[0][16:]).generate
    assert list(body.tokens.ids) == [1, 2] and not body.HasField("max_tokens")
    assert not body.sampling.HasField("temperature") and body.sampling.HasField("seed")
    assert GenerateRequest("x").seed != GenerateRequest("x").seed


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        ({"role": "user"}, {}, "prompt"),
        ([1, -1], {}, r"prompt\[1\]"),
        ([1, "x"], {}, r"prompt\[1\]"),
        ("x", {"max_tokens": 0}, "max_tokens"),
        ("x", {"max_tokens": 1, "max_new_tokens": 1}, "the same"),
        ("x", {"temperature": float("nan")}, "temperature"),
        ("x", {"top_p": "a lot"}, "top_p"),
        ("x", {"top_logprobs": 21}, "top_logprobs"),
        ("x", {"degrade": "never"}, "degrade"),
        ("x", {"timeout": 4000}, "timeout"),
        ("x", {"seed": 2**64}, "seed"),
    ],
)
def test_nonsense_is_refused_before_it_is_sent(prompt: Any, options: Any, says: str) -> None:
    with pytest.raises(troupe.InvalidRequest, match=says):
        GenerateRequest(prompt, **options)
