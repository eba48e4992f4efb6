"""What must not work over ZeroMQ: the cases W1-W13 of faults.md against a running router and a running expert node."""
import zlib

import numpy as np
import pytest
import zmq
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2

from support import golden
from support.cluster import is_alive, resident_bytes
from support.raw_client import RawClient, envelope_part, hello, layer_request

HIDDEN = 64  # of the golden Mixtral
GROWTH_ALLOWED = 64 * 1024 * 1024
ROWS = np.ones((2, HIDDEN), np.float32)


@pytest.fixture
def router(mixtral_cluster):
    """A greeted raw client; afterwards the cluster must be as alive and as small as before."""
    pids = {p["pid"]: resident_bytes(p["pid"]) for p in mixtral_cluster.context()["processes"]}
    with RawClient(mixtral_cluster.ready["client"]) as client:
        client.greet()
        yield client
    layer = golden.layers("mixtral")[0]
    with mixtral_cluster.connect() as well_behaved:
        golden.assert_matches(layer, well_behaved.layer(layer.name, layer.hidden), "f32")
    for pid, before in pids.items():
        assert is_alive(pid)
        assert resident_bytes(pid) <= before + GROWTH_ALLOWED


def refused(answer, code):
    assert answer is not None and answer.WhichOneof("body") == "failure", answer
    error = answer.failure.error
    assert error.code == common_pb2.ErrorCode.Value(code), error
    assert error.message
    return error.message


def tensor(data, **fields):
    described = {"dtype": common_pb2.F32, "shape": [2, HIDDEN], "checksum": zlib.crc32(data), "part": 1, **fields}
    return pb.ClientToRouter(layer=pb.LayerRequest(request_id=7, client_id="raw", layer="0",
                                                   hidden=common_pb2.Tensor(**described)))


@pytest.mark.fault("W1")
def test_random_parts(router):
    random = np.random.default_rng(3)
    for _ in range(50):
        router.send_parts([random.bytes(int(random.integers(0, 300))) for _ in range(int(random.integers(1, 6)))])
    while (answer := router.receive(1)) is not None:
        refused(answer, "INVALID_REQUEST")


@pytest.mark.fault("W2", "W7")
@pytest.mark.parametrize("shape", [[1 << 30, HIDDEN], [1 << 62, 1 << 62], [0, HIDDEN], [2, HIDDEN - 1], [2], [2, HIDDEN, 1, 1, 1]])
def test_shape_and_bytes_disagree(router, shape):
    data = ROWS.tobytes()
    message = refused(router.ask(tensor(data, shape=shape), [data]), "INVALID_REQUEST")
    assert "hidden" in message


@pytest.mark.fault("W7")
def test_the_numbers_are_in_the_error(router):
    data = ROWS.tobytes()[:-4]
    message = refused(router.ask(tensor(data), [data]), "INVALID_REQUEST")
    assert str(len(data)) in message and str(len(data) + 4) in message


@pytest.mark.fault("W3")
def test_too_many_parts(router):
    message, parts = layer_request(ROWS)
    router.send_parts([envelope_part(message), *parts * 200])
    refused(router.receive(), "TOO_LARGE")


@pytest.mark.fault("W3")
def test_very_many_tiny_parts(mixtral_cluster, router):
    with RawClient(mixtral_cluster.ready["client"]) as flood:
        flood.socket.sndtimeo = 20_000
        flood.greet()
        flood.send_parts([envelope_part(layer_request(ROWS)[0]), *[b"x"] * 200_000])
        answer = flood.receive(30)
        if answer is not None:  # hanging up is an answer too
            refused(answer, "TOO_LARGE")


@pytest.mark.fault("W4")
def test_the_limits_are_said_in_the_handshake(mixtral_cluster):
    with RawClient(mixtral_cluster.ready["client"]) as client:
        welcome = client.greet()
        assert welcome.cluster_id == mixtral_cluster.ready["cluster_id"]
        assert welcome.tensor_bytes_max > 0 and welcome.envelope_bytes_max > 0
        assert 2 <= welcome.parts_max <= 16 and welcome.rows_per_request_max > 0


@pytest.mark.fault("W4")
def test_the_client_library_refuses_what_is_too_large(mixtral_cluster):
    import troupe

    with mixtral_cluster.connect() as client, pytest.raises(troupe.InvalidRequest) as caught:
        client.layer(0, np.ones((8193, HIDDEN), np.float32))
    assert "8192" in str(caught.value)


@pytest.mark.fault("W5")
@pytest.mark.parametrize("data", [b"", b"\x12", b"\x12\xff\xff\xff\xff\x0f", b"\xff" * 40, b"\x0a\x00\x0a\x00" * 3])
def test_envelope_that_is_no_message(router, data):
    router.send_parts([envelope_part(data)])
    refused(router.receive(), "INVALID_REQUEST")


@pytest.mark.fault("W5")
def test_two_bodies_in_one_envelope(router):
    message, parts = layer_request(ROWS)
    info = pb.ClientToRouter(info=pb.InfoRequest(request_id=1, kind=pb.STATUS))
    router.send_parts([envelope_part(message.SerializeToString() + info.SerializeToString()), *parts])
    refused(router.receive(), "INVALID_REQUEST")


@pytest.mark.fault("W5")
def test_unknown_enum_value(router):
    message, parts = layer_request(ROWS, degrade=99)
    refused(router.ask(message, parts), "INVALID_REQUEST")


@pytest.mark.fault("W5")
def test_missing_fields(router):
    refused(router.ask(pb.ClientToRouter(layer=pb.LayerRequest(request_id=9, client_id="raw"))), "NOT_FOUND")
    message, parts = layer_request(ROWS)
    message.layer.hidden.ClearField("part")
    refused(router.ask(message, parts), "INVALID_REQUEST")


@pytest.mark.fault("W5")
def test_unknown_fields_are_ignored(router):
    message, parts = layer_request(ROWS, request_id=21)
    router.send_parts([envelope_part(message.SerializeToString() + b"\xf8\x3f\x01"), *parts])
    assert router.receive().WhichOneof("body") == "layer"


@pytest.mark.fault("W8")
@pytest.mark.parametrize("dtype", [common_pb2.I32, common_pb2.U8, 0])
def test_unsupported_dtype(router, dtype):
    size = {common_pb2.I32: 4, common_pb2.U8: 1}.get(dtype, 4)
    data = b"\0" * 2 * HIDDEN * size
    refused(router.ask(tensor(data, dtype=dtype), [data]), "INVALID_REQUEST")


@pytest.mark.fault("N13", "W5")
def test_checksums_are_checked(router):
    message, parts = layer_request(ROWS)
    router.send_parts([envelope_part(message, checksum=1), *parts])
    refused(router.receive(), "CORRUPT")
    message, parts = layer_request(ROWS, request_id=2)
    flipped = bytes([parts[0][0] ^ 1]) + parts[0][1:]
    refused(router.ask(message, [flipped]), "CORRUPT")


@pytest.mark.fault("W9")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite(router, value):
    rows = np.ones((5, HIDDEN), np.float32)
    rows[3, 1] = value
    assert "row 3" in refused(router.ask(*layer_request(rows)), "INVALID_REQUEST")


@pytest.mark.fault("W10")
def test_unknown_layer_and_expert(router):
    refused(router.ask(*layer_request(ROWS, layer="7")), "NOT_FOUND")
    refused(router.ask(*layer_request(ROWS, request_id=2, layer="encoder.0")), "NOT_FOUND")
    data = [ROWS.tobytes(), np.full((2, 1), 8, np.int32).tobytes(), np.ones((2, 1), np.float32).tobytes()]
    described = [common_pb2.Tensor(dtype=kind, shape=shape, checksum=zlib.crc32(part), part=i + 1) for i, (kind, shape, part) in
                 enumerate(zip([common_pb2.F32, common_pb2.I32, common_pb2.F32], [[2, HIDDEN], [2, 1], [2, 1]], data))]
    request = pb.ExpertsRequest(request_id=3, client_id="raw", layer="0", hidden=described[0], expert_ids=described[1],
                                expert_weights=described[2])
    assert "8" in refused(router.ask(pb.ClientToRouter(experts=request), data), "UNKNOWN_EXPERT")


@pytest.mark.fault("W11")
def test_another_major_version(mixtral_cluster, router):
    with RawClient(mixtral_cluster.ready["client"]) as client:
        client.send_parts([envelope_part(hello(major=9), major=9)])
        message = refused(client.receive(), "WRONG_VERSION")
        assert "9" in message and "1" in message
    with RawClient(mixtral_cluster.ready["client"]) as client:
        refused(client.ask(hello(major=9)), "WRONG_VERSION")


def test_no_handshake(mixtral_cluster):
    with RawClient(mixtral_cluster.ready["client"]) as client:
        refused(client.ask(*layer_request(ROWS)), "HANDSHAKE_REQUIRED")


@pytest.mark.fault("P11")
def test_another_cluster(mixtral_cluster):
    with RawClient(mixtral_cluster.ready["client"]) as client:
        message = refused(client.ask(hello(cluster_id="another")), "WRONG_CLUSTER")
        assert "another" in message and mixtral_cluster.ready["cluster_id"] in message


def calls_of_expert_nodes(cluster):
    return sum(e["tokens_total"] for e in cluster.experts())


@pytest.mark.fault("W12")
def test_repeated_request_is_answered_but_not_executed_again(router):
    layer = golden.layers("mixtral")[1]
    message, parts = layer_request(layer.hidden, request_id=77, layer="1", client_id="repeats")
    first = router.ask(message, parts)
    assert first.WhichOneof("body") == "layer"
    tensors = router.parts[1:]
    again = router.ask(message, parts)
    assert again.WhichOneof("body") == "layer" and router.parts[1:] == tensors
    for _ in range(5):
        router.send(message, parts)
    for _ in range(5):
        answer = router.receive()
        assert answer.WhichOneof("body") == "layer" or answer.failure.error.code == common_pb2.IN_PROGRESS


@pytest.mark.fault("W1", "W13")
@pytest.mark.parametrize("socket_name", ["expert-0.data", "expert-0.peer", "coordinator.control", "coordinator.heartbeat",
                                         "coordinator.admin"])
def test_random_parts_on_every_inner_socket(mixtral_cluster, router, socket_name):
    random = np.random.default_rng(5)
    address = f"ipc://{mixtral_cluster.context()['run_dir']}/{socket_name}.ipc"
    with RawClient(address) as stranger:
        stranger.socket.setsockopt(zmq.SNDTIMEO, 5000)
        for _ in range(50):
            stranger.send_parts([random.bytes(int(random.integers(0, 300))) for _ in range(int(random.integers(1, 9)))])
        # A well-framed message with a body that nobody asked for.
        stranger.send_parts([envelope_part(b"\x12\x08\x08\x01\x10\x02\x18\x03\x20\x04")])
        stranger.socket.poll(500)
    assert mixtral_cluster.status()["state"] == "serving"
