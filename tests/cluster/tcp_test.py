"""The same over TCP: CURVE everywhere, and nobody without a key of the right role gets in."""
import socket

import pytest
import troupe
import zmq
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2
from zmq.utils.monitor import recv_monitor_message

from support import golden
from support.cluster import LocalCluster
from support.raw_client import RawClient


@pytest.fixture(scope="module")
def tcp_cluster():
    with LocalCluster(golden.FOLDER / "mixtral", expert_nodes=3, dtype="f32", transport="tcp") as cluster:
        yield cluster


def check_layer(client):
    layer = golden.layers("mixtral")[0]
    golden.assert_matches(layer, client.layer(layer.name, layer.hidden), "f32")


def test_serves_over_tcp(tcp_cluster):
    assert tcp_cluster.ready["client"].startswith("tcp://127.0.0.1:")
    with tcp_cluster.connect() as client:
        check_layer(client)
    assert tcp_cluster.run("node", "list").returncode == 0


def test_a_key_made_later_is_let_in(tcp_cluster):
    assert tcp_cluster.run("keys", "gen", "laptop").returncode == 0
    secret = tcp_cluster.data_dir / "keys" / "laptop.key"
    server = tcp_cluster.context()["server_keys"]["router-0"]
    secret.write_text(secret.read_text().rstrip() + f"\nserver {server}\n")
    with troupe.connect(tcp_cluster.ready["client"], keys=secret, timeout=10) as client:
        check_layer(client)


def test_a_key_that_was_revoked_is_let_in_no_more(tcp_cluster):
    assert tcp_cluster.run("keys", "gen", "desk").returncode == 0
    secret = tcp_cluster.data_dir / "keys" / "desk.key"
    server = tcp_cluster.context()["server_keys"]["router-0"]
    kept = secret.with_name("kept")
    kept.write_text(secret.read_text().rstrip() + f"\nserver {server}\n")
    kept.chmod(0o600)
    with troupe.connect(tcp_cluster.ready["client"], keys=kept, timeout=10) as client:
        check_layer(client)
    refused = tcp_cluster.metric("moe_curve_handshake_failures_total")
    assert tcp_cluster.run("keys", "revoke", "desk").returncode == 0
    with pytest.raises(troupe.PermissionDenied):
        troupe.connect(tcp_cluster.ready["client"], keys=kept, timeout=3)
    assert tcp_cluster.metric("moe_curve_handshake_failures_total") > refused
    assert tcp_cluster.run("keys", "revoke", "desk").returncode == 1
    assert tcp_cluster.run("keys", "revoke", "router-0").returncode == 4


@pytest.mark.fault("H4")
def test_unknown_key_is_refused(tcp_cluster, tmp_path):
    public, secret = zmq.curve_keypair()
    file = tmp_path / "stranger.key"
    file.write_text(f"public {public.decode()}\nsecret {secret.decode()}\n"
                    f"server {tcp_cluster.context()['server_keys']['router-0']}\n")
    file.chmod(0o600)
    with pytest.raises(troupe.PermissionDenied):
        troupe.connect(tcp_cluster.ready["client"], keys=file, timeout=3)


@pytest.mark.fault("H4", "H5")
@pytest.mark.parametrize("name", ["coordinator", "expert-0"])
def test_a_client_key_opens_no_inner_socket(tcp_cluster, name):
    """The client's key is authorised, but not for the sockets between the processes."""
    command = next(p["command"] for p in tcp_cluster.context()["processes"] if p["name"] == name)
    address = command[command.index("--listen") + 1]
    lines = (tcp_cluster.data_dir / "keys" / "client.key").read_text().splitlines()
    keys = dict(line.split() for line in lines if not line.startswith("#"))
    context = zmq.Context()
    peer = context.socket(zmq.DEALER)
    peer.linger = 0
    peer.curve_publickey, peer.curve_secretkey = keys["public"].encode(), keys["secret"].encode()
    peer.curve_serverkey = tcp_cluster.context()["server_keys"][name].encode()
    monitor = peer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    peer.connect(address)
    try:
        assert monitor.poll(10_000), "the handshake neither succeeds nor fails"
        assert recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    finally:
        peer.disable_monitor()
        monitor.close(linger=0)
        peer.close()
        context.term()


@pytest.mark.fault("H6", "W1")
def test_a_silent_connection_is_closed(tcp_cluster):
    host, port = tcp_cluster.ready["client"].removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        # The server greets first; whoever says nothing is hung up on.
        while connection.recv(4096):
            pass
    with tcp_cluster.connect() as client:
        check_layer(client)


@pytest.mark.fault("H5")
def test_only_an_operators_key_gets_what_other_clients_sent(tcp_cluster, tmp_path):
    context = tcp_cluster.context()
    lines = (tcp_cluster.data_dir / "keys" / "client.key").read_text().splitlines()
    keys = dict(line.split()[:2] for line in lines if not line.startswith("#"))
    with RawClient(tcp_cluster.ready["client"], {**keys, "server": context["server_keys"]["router-0"]}) as client:
        client.greet()
        answer = client.ask(pb.ClientToRouter(inputs=pb.InputsRequest(request_id=7, layer="0", expert=0)))
        assert answer.failure.error.code == common_pb2.PERMISSION_DENIED, answer
    layer = golden.layers("mixtral")[0]
    operator = tcp_cluster.run("expert", "export-inputs", f"{layer.name}/0", "--out", tmp_path / "x.safetensors")
    assert (operator.returncode, "keeps no inputs" in operator.stderr) == (4, True), operator.stderr
