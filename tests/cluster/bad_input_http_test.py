"""What must not work over HTTP: every case is refused with an OpenAI error object, and the cluster goes on serving."""
import json
import socket
import struct

import numpy as np
import pytest

from support import golden, safetensors
from support.cluster import http_request
from support.http_layer import CONTENT_TYPE, post_layer

TYPE = {"Content-Type": CONTENT_TYPE}
HIDDEN = 64  # of the golden Mixtral


@pytest.fixture(autouse=True)
def still_serves(mixtral_cluster):
    yield
    layer = golden.layers("mixtral")[0]
    golden.assert_matches(layer, post_layer(mixtral_cluster.http, layer.name, layer.hidden), "f32")


def refused(answer, wanted):
    status, headers, body = answer
    assert status == wanted, (status, body[:300])
    error = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    return error


def header_only(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, size):
    return {"hidden": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


GOOD = safetensors.encode({"hidden": np.ones((2, HIDDEN), np.float32)})

BAD_BODIES = {
    "empty": b"",
    "short": b"\x01\x02",
    "random bytes": bytes(range(256)) * 8,
    "header length of 4 GB": struct.pack("<Q", 1 << 32) + b"{}",
    "header length of 2^64-1": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "header is no JSON": struct.pack("<Q", 4) + b"nope",
    "header is a list": struct.pack("<Q", 2) + b"[]",
    "10,000 levels deep": struct.pack("<Q", 20_000) + b"[" * 10_000 + b"]" * 10_000,
    "invalid UTF-8": struct.pack("<Q", 6) + b'{"\xff":',
    "no tensor": header_only({}),
    "another name": header_only({"hiden": {"dtype": "F32", "shape": [1, HIDDEN], "data_offsets": [0, 256]}}, b"\0" * 256),
    "payload too short": header_only(tensor("F32", [2, HIDDEN], 2 * HIDDEN * 4), b"\0" * HIDDEN * 4),
    "payload too long": header_only(tensor("F32", [1, HIDDEN], HIDDEN * 4), b"\0" * 2 * HIDDEN * 4),
    "no rows": header_only(tensor("F32", [0, HIDDEN], 0)),
    "rows overflow": header_only(tensor("F32", [1 << 62, 1 << 62], 0)),
    "negative shape": header_only(tensor("F32", [-1, HIDDEN], 256), b"\0" * 256),
    "wrong width": header_only(tensor("F32", [1, HIDDEN + 1], (HIDDEN + 1) * 4), b"\0" * (HIDDEN + 1) * 4),
    "rank 1": header_only(tensor("F32", [HIDDEN], HIDDEN * 4), b"\0" * HIDDEN * 4),
    "rank 3": header_only(tensor("F32", [1, 1, HIDDEN], HIDDEN * 4), b"\0" * HIDDEN * 4),
    "dtype I64": header_only(tensor("I64", [1, HIDDEN], HIDDEN * 8), b"\0" * HIDDEN * 8),
    "dtype that does not exist": header_only(tensor("F13", [1, HIDDEN], 256), b"\0" * 256),
}


@pytest.mark.fault("W2", "W5", "W6", "W7", "W8", "C1", "C2")
@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_body(mixtral_cluster, name):
    refused(http_request(f"{mixtral_cluster.http}/v1/layers/0", BAD_BODIES[name], TYPE), 400)


@pytest.mark.fault("W7")
def test_the_numbers_are_in_the_error(mixtral_cluster):
    body = header_only(tensor("F32", [2, HIDDEN], 2 * HIDDEN * 4), b"\0" * HIDDEN * 4)
    message = refused(http_request(f"{mixtral_cluster.http}/v1/layers/0", body, TYPE), 400)["message"]
    assert "hidden" in message and str(2 * HIDDEN * 4) in message


@pytest.mark.fault("W8")
def test_supported_dtypes_are_listed(mixtral_cluster):
    body = BAD_BODIES["dtype I64"]
    message = refused(http_request(f"{mixtral_cluster.http}/v1/layers/0", body, TYPE), 400)["message"]
    assert all(name in message.upper() for name in ("F32", "F16", "BF16"))


@pytest.mark.fault("W9")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_rows_that_are_not_finite(mixtral_cluster, value, dtype):
    hidden = np.ones((3, HIDDEN), np.float32)
    hidden[1, 5] = value
    if dtype == "BF16":  # the codec of the tests rounds finite values only
        bits = safetensors.narrow(np.ones((3, HIDDEN), np.float32))
        bits[1, 5] = {np.inf: 0x7F80, -np.inf: 0xFF80}.get(value, 0x7FC0)
        body = header_only(tensor("BF16", [3, HIDDEN], 3 * HIDDEN * 2), bits.tobytes())
    else:
        body = safetensors.encode({"hidden": hidden.astype(np.float16) if dtype == "F16" else hidden})
    assert "row 1" in refused(http_request(f"{mixtral_cluster.http}/v1/layers/0", body, TYPE), 400)["message"]


@pytest.mark.fault("W10")
@pytest.mark.parametrize("layer", ["2", "999999999999", "encoder.0", "-1", "x", "0/1", "..", "0%20"])
def test_unknown_layer(mixtral_cluster, layer):
    refused(http_request(f"{mixtral_cluster.http}/v1/layers/{layer}", GOOD, TYPE), 404)


@pytest.mark.fault("W14")
def test_a_target_that_is_no_path(mixtral_cluster):
    refused(http_request(f"{mixtral_cluster.http}/v1/layers/%00", GOOD, TYPE), 400)


@pytest.mark.parametrize("metadata", [{"degrade": "sometimes"}, {"timeout_ms": "soon"}, {"timeout_ms": "-1"},
                                      {"timeout_ms": "99999999999999999999"}])
def test_bad_metadata(mixtral_cluster, metadata):
    body = safetensors.encode({"hidden": np.ones((1, HIDDEN), np.float32)}, metadata)
    error = refused(http_request(f"{mixtral_cluster.http}/v1/layers/0", body, TYPE), 400)
    assert next(iter(metadata)) in error["message"] + str(error["param"])


def raw_request(cluster, data, size=4096):
    host, port = cluster.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(size):
            answer += chunk
        return answer


@pytest.mark.fault("W1")
def test_random_bytes_on_the_http_port(mixtral_cluster):
    random = np.random.default_rng(1)
    for _ in range(20):
        answer = raw_request(mixtral_cluster, random.bytes(500))
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


@pytest.mark.fault("W2", "W14")
@pytest.mark.parametrize(("head", "status"), [
    (b"Content-Length: 99999999999\r\n", 413),
    (b"Content-Length: 18446744073709551616\r\n", 400),
    (b"Content-Length: -5\r\n", 400),
    (b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
    (b"X: " + b"y" * 70_000 + b"\r\n", 431),
    (b"".join(b"X-%d: y\r\n" % i for i in range(5000)), 431)])
def test_hostile_heads(mixtral_cluster, head, status):
    answer = raw_request(mixtral_cluster, b"POST /v1/layers/0 HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]


def test_methods_and_paths(mixtral_cluster):
    assert http_request(f"{mixtral_cluster.http}/v1/layers/0")[0] == 405
    assert http_request(f"{mixtral_cluster.http}/no/such/path")[0] == 404
    # Nothing administrative is mounted on the public port (faults.md H3).
    assert http_request(f"{mixtral_cluster.http}/admin/drain", b"{}")[0] == 404


def test_probes_and_metrics(mixtral_cluster):
    for path in ("/livez", "/readyz", "/readyz?verbose", "/health", "/version"):
        assert http_request(mixtral_cluster.http + path)[0] == 200, path
    metrics = http_request(mixtral_cluster.http + "/metrics")[2].decode()
    for name in ("moe_expert_calls_total", "moe_dispatch_messages_total", "moe_tokens_total", "moe_placement_epoch",
                 "moe_build_info"):
        assert name in metrics, name
