"""The blocking client against a fake router: results, errors, retries, failover, threads."""

from __future__ import annotations

import threading
import time
from typing import Any, List

import numpy as np
import pytest
import troupe
from fake_router import CLUSTER, double, failure, layer_reply, pack
from troupe import _limits
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2

HIDDEN = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_layer_returns_what_the_router_computed(make_router: Any) -> None:
    router = make_router()
    with troupe.connect(router.address) as cluster:
        result = cluster.layer(3, HIDDEN, degrade="renormalise", timeout=5)
    assert np.array_equal(result.output, 2 * HIDDEN)
    assert np.array_equal(result.routed_output, HIDDEN)
    assert result.expert_ids.tolist() == [[1, 0]] * 3 and result.expert_ids.dtype == np.int32
    assert result.expert_weights.tolist() == [[0.75, 0.25]] * 3 and result.expert_weights.dtype == np.float32
    assert result.flags.tolist() == [0, 0, 0] and result.flags.dtype == np.uint8
    assert result.epoch == 7 and result.exact
    request = router.seen[0].layer
    assert (request.layer, request.degrade) == ("3", pb.RENORMALISE)
    assert 4000 < request.timeout_ms <= 5000
    assert router.hellos[0].wire_major == 1 and router.hellos[0].software.startswith("troupe-python/")


def test_result_arrays_are_writable_and_independent(make_router: Any) -> None:
    def share(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        """No shared experts: output and routed_output name one part."""
        parts = layer_reply(message.layer.request_id, tensors[0], common_pb2.F32)
        reply = pb.RouterToClient.FromString(parts[0][16:])
        reply.layer.routed_output.CopyFrom(reply.layer.output)
        router.answer(peer, pack(reply, parts[1:]))

    with troupe.connect(make_router(behaviour=share).address) as cluster:
        result = cluster.layer("encoder.1", HIDDEN)
    result.output[:] = -1
    assert np.array_equal(result.routed_output, 2 * HIDDEN)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_results_come_in_the_dtype_of_the_request(make_router: Any, dtype: str) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    hidden = HIDDEN.astype(dtype)
    with troupe.connect(make_router().address) as cluster:
        result = cluster.layer(0, hidden)
    assert result.output.dtype == hidden.dtype and result.routed_output.dtype == hidden.dtype
    assert np.array_equal(result.output.astype(np.float32), 2 * HIDDEN)


def test_views_and_lists_are_sent_as_they_look(make_router: Any) -> None:
    with troupe.connect(make_router().address) as cluster:
        assert np.array_equal(cluster.layer(0, HIDDEN.T[::2]).output, 2 * HIDDEN.T[::2])
        assert np.array_equal(cluster.layer(0, HIDDEN.astype(">f4")).output, 2 * HIDDEN)
        assert cluster.layer(0, [[1.0, 2.0]]).output.tolist() == [[2.0, 4.0]]


def test_experts_sends_the_callers_choice(make_router: Any) -> None:
    chosen: List[Any] = []

    def keep(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        chosen.extend(tensors[1:])
        double(router, peer, message, tensors)

    ids, weights = np.array([[5, -1]] * 3), np.full((3, 2), 0.5)  # int64 and float64, as numpy makes them
    with troupe.connect(make_router(behaviour=keep).address) as cluster:
        assert np.array_equal(cluster.experts(3, HIDDEN, ids, weights).output, 2 * HIDDEN)
    assert np.array_equal(chosen[0], ids) and np.array_equal(chosen[1], weights)


def test_info_verbs_return_documents(make_router: Any) -> None:
    with troupe.connect(make_router().address) as cluster:
        assert cluster.status()["kind"] == pb.STATUS
        assert cluster.model()["kind"] == pb.MODEL
        assert cluster.nodes() == [{"name": "expert-0"}]
        assert cluster.list_experts() == [{"name": "expert-0"}]


def test_list_experts_asks_for_one_layer(make_router: Any) -> None:
    router = make_router()
    with troupe.connect(router.address) as cluster:
        cluster.list_experts(layer=4)
    assert router.seen[0].info.layer == "4"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((3, HIDDEN.astype(np.float64)), "float64"),
        ((3, np.zeros((2, 3, 4), np.float32)), "two dimensions"),
        ((3, np.zeros((0, 4), np.float32)), "at least 1"),
        (("encoder", HIDDEN), "encoder.N"),
        ((-1, HIDDEN), "-1"),
        ((True, HIDDEN), "True"),
        ((3, "text"), "no array"),
    ],
)
def test_bad_input_is_refused_before_it_is_sent(make_router: Any, arguments: Any, text: str) -> None:
    router = make_router()
    with troupe.connect(router.address) as cluster:
        with pytest.raises(troupe.InvalidRequest, match=text) as caught:
            cluster.layer(*arguments)
    assert caught.value.code == "invalid_request" and not caught.value.retryable
    assert router.seen == []


@pytest.mark.parametrize(
    ("options", "text"),
    [({"timeout": 0}, "timeout"), ({"timeout": float("nan")}, "timeout"), ({"degrade": "drop"}, "degrade")],
)
def test_bad_options_are_refused(make_router: Any, options: Any, text: str) -> None:
    with troupe.connect(make_router().address) as cluster:
        with pytest.raises(troupe.InvalidRequest, match=text):
            cluster.layer(3, HIDDEN, **options)


@pytest.mark.parametrize(
    ("ids", "weights", "text"),
    [
        ([[0, 1]] * 2, [[1.0, 0.0]] * 2, "3 rows"),
        ([[0, 1]] * 3, [[1.0]] * 3, "must both be"),
        ([[0.5, 1.0]] * 3, [[1.0, 0.0]] * 3, "integers"),
        ([[0, 2**40]] * 3, [[1.0, 0.0]] * 3, "expert numbers"),
        ([[0, -2]] * 3, [[1.0, 0.0]] * 3, "expert numbers"),
    ],
)
def test_bad_choices_are_refused(make_router: Any, ids: Any, weights: Any, text: str) -> None:
    with troupe.connect(make_router().address) as cluster:
        with pytest.raises(troupe.InvalidRequest, match=text):
            cluster.experts(3, HIDDEN, np.array(ids), np.array(weights))


def test_limits_of_the_router_are_kept_locally(make_router: Any) -> None:
    """faults.md W4: the transport would drop the connection without a word."""
    router = make_router()
    with troupe.connect(router.address) as cluster:
        with pytest.raises(troupe.InvalidRequest, match="65 rows") as caught:
            cluster.layer(0, np.zeros((65, 4), np.float32))
        assert caught.value.code == "too_large"
        with pytest.raises(troupe.InvalidRequest, match="bytes"):
            cluster.layer(0, np.zeros((64, 8192), np.float32))
    assert router.seen == []


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        (common_pb2.INVALID_REQUEST, troupe.InvalidRequest, False),
        (common_pb2.NOT_FOUND, troupe.NotFound, False),
        (common_pb2.UNKNOWN_EXPERT, troupe.NotFound, False),
        (common_pb2.UNAVAILABLE, troupe.Unavailable, True),
        (common_pb2.TIMEOUT, troupe.Timeout, True),
        (common_pb2.OVERLOADED, troupe.Overloaded, True),
        (common_pb2.PERMISSION_DENIED, troupe.PermissionDenied, False),
        (common_pb2.CANCELLED, troupe.Error, False),
        (4711, troupe.Error, False),
    ],
)
def test_failures_become_errors(make_router: Any, code: int, kind: Any, retryable: bool) -> None:
    def fail(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        router.answer(peer, failure(message.layer.request_id, code, "what, to which; what next", 250))

    with troupe.connect(make_router(behaviour=fail).address) as cluster:
        with pytest.raises(troupe.Error, match="what, to which; what next") as caught:
            cluster.layer(0, HIDDEN)
    assert type(caught.value) is kind and caught.value.retryable is retryable
    assert caught.value.retry_after == 0.25
    assert caught.value.code == ("internal" if code == 4711 else common_pb2.ErrorCode.Name(code).lower())


def test_a_silent_router_is_a_timeout(make_router: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(_limits, "ANSWER_GRACE", 0.05)
    with troupe.connect(make_router(behaviour=lambda *unused: None).address) as cluster:
        with pytest.raises(troupe.Timeout, match="did not answer within 0.1 s"):
            cluster.layer(0, HIDDEN, timeout=0.1)


def test_nobody_there_is_unavailable(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(troupe.Unavailable, match="no router answered"):
        troupe.connect(address, timeout=0.3)
    assert time.monotonic() - started < 2


def test_tcp_port_without_listener_is_unavailable(tmp_path: Any) -> None:
    keys = write_keys(tmp_path / "client.key", *make_keys(), server=make_keys()[0])
    with pytest.raises(troupe.Unavailable, match="nobody answers"):
        troupe.connect("tcp://127.0.0.1:1", keys=keys, timeout=0.3)


def test_late_and_foreign_answers_are_dropped(make_router: Any, monkeypatch: Any) -> None:
    """faults.md W13."""
    monkeypatch.setattr(_limits, "ANSWER_GRACE", 0.05)
    late: List[Any] = []

    def behave(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        body = message.layer
        if not late:
            late.append(layer_reply(body.request_id, tensors[0], common_pb2.F32, scale=100.0))
            return
        router.answer(peer, late[0])
        router.answer(peer, layer_reply(999_999, tensors[0], common_pb2.F32, scale=200.0))
        double(router, peer, message, tensors)
        double(router, peer, message, tensors)

    with troupe.connect(make_router(behaviour=behave).address) as cluster:
        with pytest.raises(troupe.Timeout):
            cluster.layer(0, HIDDEN, timeout=0.1)
        for _ in range(3):
            assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)


def test_handshake_is_repeated_when_the_router_forgot_it(make_router: Any) -> None:
    router = make_router()
    with troupe.connect(router.address) as cluster:
        cluster.layer(0, HIDDEN)
        router.forget_peers()
        assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)
    assert len(router.hellos) == 2


def test_a_request_survives_the_loss_of_its_router(make_router: Any) -> None:
    first = make_router(behaviour=lambda *unused: None)
    with troupe.connect(first.address) as cluster:
        results: List[Any] = []
        caller = threading.Thread(target=lambda: results.append(cluster.layer(0, HIDDEN)))
        caller.start()
        first.wait_for(lambda: len(first.seen) == 1)
        first.stop()
        second = make_router(address=first.address)
        caller.join(20)
        assert np.array_equal(results[0].output, 2 * HIDDEN)
    before, after = first.seen[0].layer, second.seen[0].layer
    assert (before.request_id, before.client_id) == (after.request_id, after.client_id)
    assert after.timeout_ms <= before.timeout_ms


def test_an_idle_connection_may_be_lost_without_harm(make_router: Any) -> None:
    first = make_router()
    with troupe.connect(first.address) as cluster:
        for _ in range(3):
            cluster.layer(0, HIDDEN)
            first.stop()
            first = make_router(address=first.address)
        assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)


def test_the_next_router_takes_over(make_router: Any) -> None:
    first, second = make_router(behaviour=lambda *unused: None), make_router()
    with troupe.connect([first.address, second.address]) as cluster:
        results: List[Any] = []
        caller = threading.Thread(target=lambda: results.append(cluster.layer(0, HIDDEN)))
        caller.start()
        first.wait_for(lambda: len(first.seen) == 1)
        first.stop()
        caller.join(20)
        assert np.array_equal(results[0].output, 2 * HIDDEN)
    assert second.seen[0].layer.request_id == first.seen[0].layer.request_id


def test_connect_passes_over_a_dead_router(make_router: Any, address: str) -> None:
    with troupe.connect([address, make_router().address]) as cluster:
        assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)


def test_in_progress_is_asked_again_under_the_same_id(make_router: Any) -> None:
    """faults.md W12, the client's side."""

    def behave(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        if len(router.seen) < 3:
            router.answer(peer, failure(message.layer.request_id, common_pb2.IN_PROGRESS, "being executed"))
        else:
            double(router, peer, message, tensors)

    router = make_router(behaviour=behave)
    with troupe.connect(router.address) as cluster:
        assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)
    assert len({message.layer.request_id for message in router.seen}) == 1 and len(router.seen) == 3


def damage_checksum(parts: List[bytes]) -> List[bytes]:
    return [parts[0], b"\x01" + parts[1][1:], *parts[2:]]


def damage_envelope(parts: List[bytes]) -> List[bytes]:
    return [parts[0][:-1] + bytes([parts[0][-1] ^ 1]), *parts[1:]]


def cut_tensor(parts: List[bytes]) -> List[bytes]:
    return [parts[0], parts[1][:-4], *parts[2:]]


def drop_part(parts: List[bytes]) -> List[bytes]:
    return parts[:-1]


def no_preamble(parts: List[bytes]) -> List[bytes]:
    return [b"HTTP/1.1 200 OK\r\n\r\n", *parts[1:]]


def many_parts(parts: List[bytes]) -> List[bytes]:
    return parts + [b""] * 200


@pytest.mark.parametrize("damage", [damage_checksum, damage_envelope, cut_tensor, drop_part, no_preamble, many_parts])
def test_damaged_answers_are_never_used(make_router: Any, damage: Any) -> None:
    """faults.md W1, W3, W5, W7, the client's side: the connection is dropped and the request asked again."""

    def behave(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        reply = layer_reply(message.layer.request_id, tensors[0], common_pb2.F32)
        router.answer(peer, damage(reply) if len(router.seen) == 1 else reply)

    router = make_router(behaviour=behave)
    with troupe.connect(router.address) as cluster:
        assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)
    assert len(router.hellos) == 2 and len(router.seen) == 2


def test_an_answer_of_another_shape_is_never_used(make_router: Any) -> None:
    def behave(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        hidden = tensors[0] if len(router.seen) > 1 else tensors[0][:2]
        router.answer(peer, layer_reply(message.layer.request_id, hidden, common_pb2.F32))

    with troupe.connect(make_router(behaviour=behave).address) as cluster:
        assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)


def test_a_router_that_always_answers_damaged_ends_the_call(make_router: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(_limits, "ATTEMPTS_PER_REQUEST_MAX", 3)

    def behave(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        router.answer(peer, [b"junk"])

    router = make_router(behaviour=behave)
    with troupe.connect(router.address) as cluster:
        with pytest.raises(troupe.Unavailable, match="lost 3 times"):
            cluster.layer(0, HIDDEN)
    assert len(router.seen) == 3


def test_a_router_of_another_cluster_is_refused(make_router: Any) -> None:
    """faults.md P11, the client's side."""
    first = make_router()
    with troupe.connect(first.address) as cluster:
        first.stop()
        second = make_router(address=first.address)
        second.welcome.cluster_id = "another-cluster"
        with pytest.raises(troupe.Error, match="another-cluster") as caught:
            cluster.layer(0, HIDDEN)
    assert caught.value.code == "wrong_cluster" and not caught.value.retryable
    assert second.seen == []
    assert second.hellos[0].cluster_id == CLUSTER


def test_wrong_version_is_said_at_once(make_router: Any) -> None:
    """faults.md W11, the client's side."""
    router = make_router()
    router.hello_failure = common_pb2.Error(code=common_pb2.WRONG_VERSION, message="peer speaks 1.0, this node 2.0")
    with pytest.raises(troupe.Error, match="this node 2.0") as caught:
        troupe.connect(router.address)
    assert caught.value.code == "wrong_version"


def test_a_starting_router_is_waited_for(make_router: Any) -> None:
    router = make_router()
    router.hello_failure = common_pb2.Error(code=common_pb2.UNAVAILABLE, message="no map yet; wait")
    connected: List[Any] = []
    caller = threading.Thread(target=lambda: connected.append(troupe.connect(router.address)))
    caller.start()
    router.wait_for(lambda: len(router.hellos) >= 2)
    router.hello_failure = None
    caller.join(20)
    connected[0].close()


def test_threads_call_side_by_side(make_router: Any) -> None:
    """All calls are at the router before the first is answered, so none waits for another."""
    waiting: List[Any] = []

    def gather(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        waiting.append((peer, message, tensors))
        if len(waiting) == 8:
            for one in reversed(waiting):
                double(router, *one)

    results: dict = {}
    with troupe.connect(make_router(behaviour=gather).address) as cluster:

        def call(number: int) -> None:
            results[number] = cluster.layer(0, HIDDEN + number).output

        callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(20)
    assert len(results) == 8
    assert all(np.array_equal(output, 2 * (HIDDEN + number)) for number, output in results.items())


def test_close_ends_use_and_may_be_repeated(make_router: Any) -> None:
    cluster = troupe.connect(make_router().address)
    cluster.close()
    cluster.close()
    with pytest.raises(troupe.InvalidRequest, match="closed"):
        cluster.layer(0, HIDDEN)


# -- keys ---------------------------------------------------------------------------------------------------------


def make_keys() -> Any:
    import zmq

    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def write_keys(path: Any, public: str, secret: str, server: str = "") -> Any:
    lines = ["# a client", f"public {public}", f"secret {secret}"] + ([f"server {server}"] if server else [])
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def guarded(make_router: Any, tmp_path: Any) -> Any:
    """A router behind CURVE that lets one client key in, and that client's key file."""
    server, client = make_keys(), make_keys()
    keys = {"public": server[0].encode(), "secret": server[1].encode(), "allowed": [client[0].encode()]}
    router = make_router(address="tcp://127.0.0.1:*", keys=keys)
    return router, server[0], write_keys(tmp_path / "client.key", *client, server=server[0])


def test_tcp_with_keys(guarded: Any) -> None:
    router, _, keys = guarded
    with troupe.connect(router.address, keys=keys) as cluster:
        assert np.array_equal(cluster.layer(0, HIDDEN).output, 2 * HIDDEN)


def test_an_unknown_key_is_denied_at_once(guarded: Any, tmp_path: Any) -> None:
    router, server, _ = guarded
    stranger = write_keys(tmp_path / "stranger.key", *make_keys(), server=server)
    with pytest.raises(troupe.PermissionDenied, match="does not accept this key"):
        troupe.connect(router.address, keys=stranger, timeout=30)


def test_a_wrong_server_key_never_connects(guarded: Any, tmp_path: Any) -> None:
    router, _, _ = guarded
    mistaken = write_keys(tmp_path / "mistaken.key", *make_keys(), server=make_keys()[0])
    with pytest.raises(troupe.Error):
        troupe.connect(router.address, keys=mistaken, timeout=1)
    assert router.hellos == []


def test_tcp_needs_keys(monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.setenv("TROUPE_DATA_DIR", str(tmp_path))
    with pytest.raises(troupe.InvalidRequest, match="needs keys"):
        troupe.connect("tcp://127.0.0.1:7400")
