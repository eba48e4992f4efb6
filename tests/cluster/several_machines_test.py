"""troupe up -f: a cluster on several machines. The machines are addresses of this one, and ssh is a script that runs what it is
told to here: everything but the network between them is real."""
import json
import os
import signal
import socket
import stat

import pytest

from support import golden
from support.cluster import LocalCluster, is_alive, run_troupe
from support.waiting import wait_until

MODEL = golden.FOLDER / "mixtral"


def free_base():
    """P such that the ports which the two machines use, P and P + 1000 on, are free."""
    for base in range(10400, 19000, 100):
        try:
            for port in (p + d for p in (base, base + 1000) for d in (0, 100, 200, 201, 202, 203, 300, 301, 302, 303, 500, 501)):
                for address in ("127.0.0.1", "127.0.0.2"):
                    with socket.socket() as tried:
                        tried.bind((address, port))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


@pytest.fixture
def ssh(tmp_path):
    """ssh HOST LINE: notes HOST, and gives LINE to a shell, as sshd does. It has a file system of its own as far as the data
    folder is concerned: /elsewhere instead of it."""
    script = tmp_path / "ssh"
    script.write_text(f"""#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
echo "$1" >>{tmp_path}/hosts
[ "$1" != unreachable ] || {{ echo "ssh: connect to host $1: No route to host" >&2; exit 255; }}
shift
exec sh -c "$(printf '%s' "$*" | sed 's|{tmp_path}/data|{tmp_path}/elsewhere|g')"
""")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def cluster_file(tmp_path, ssh, second="b"):
    port = free_base()
    path = tmp_path / "cluster.yaml"
    path.write_text(f"""
model: {MODEL}
dtype: f32
replication: 2
ssh: {ssh}
port: {port}
machines:
  - {{name: a, address: 127.0.0.1, expert_nodes: 2, routers: 1}}
  - {{name: b, address: 127.0.0.2, ssh: {second}, port: {port + 1000}, expert_nodes: 1, routers: 1}}
""")
    return path


def up(path, data_dir, *more):
    return run_troupe("up", "-f", path, "--data-dir", data_dir, "--detach", "-o", "json", *more)


def pids_under(folder):
    """Processes whose command line names the folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and words[0].endswith((b"troupe-expert", b"troupe-router", b"troupe-coordinator")):
            found.append(int(pid))
    return found


def test_processes_on_other_machines_are_started_watched_and_stopped(tmp_path, ssh):
    path, data = cluster_file(tmp_path, ssh), tmp_path / "data"
    started = up(path, data)
    assert started.returncode == 0, started.stderr
    cluster = LocalCluster(MODEL, data_dir=data)
    try:
        ready = json.loads(started.stdout)
        assert ready["client"].startswith("tcp://127.0.0.1:")
        assert {p["name"] for p in ready["processes"]} == {"coordinator", "expert-0", "expert-1", "expert-2", "router-0",
                                                           "router-1"}
        nodes = cluster.nodes()
        assert nodes["expert-2"]["address"].startswith("tcp://127.0.0.2:")
        assert nodes["expert-0"]["address"].startswith("tcp://127.0.0.1:")
        there = pids_under(tmp_path / "elsewhere")
        assert len(there) == 2 and nodes["expert-2"]["pid"] in there
        assert (tmp_path / "hosts").read_text().split()[0] == "b"
        keys = {entry.name for entry in (tmp_path / "elsewhere/keys").iterdir()}
        assert keys == {"authorized", "coordinator.pub", "expert-2.key", "router-1.key"}, "no more secrets than it needs"
        check_layer(cluster)

        # One that dies there is noticed here, and started again there.
        os.kill(nodes["expert-2"]["pid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(cluster.pid("expert-2")), 20, "its keeper has ended")
        again = up(path, data)
        assert again.returncode == 0 and "started again what was missing: expert-2" in again.stderr, again.stderr
        wait_until(lambda: cluster.nodes()["expert-2"]["pid"] not in (0, nodes["expert-2"]["pid"]), 30, "the new one has joined")

        # What is revoked here is revoked there.
        assert cluster.run("keys", "gen", "laptop").returncode == 0
        assert " laptop" in (tmp_path / "elsewhere/keys/authorized").read_text()
        assert cluster.run("keys", "revoke", "laptop").returncode == 0
        assert " laptop" not in (tmp_path / "elsewhere/keys/authorized").read_text()
        assert cluster.run("keys", "revoke", "router-1").returncode == 4

        shown = {i["key"]: i for i in cluster.json("config", "show", "--origin")["items"]}
        assert shown["replication"]["value"] == "2" and shown["replication"]["where"] == f"{path}:4"
        assert up(path, data, "--replication", "1").returncode == 4, "it runs with another one"
    finally:
        assert cluster.run("down").returncode == 0
    wait_until(lambda: not pids_under(tmp_path / "elsewhere"), 20, "nothing is left there")
    assert not pids_under(data)


def check_layer(cluster):
    layer = golden.layers("mixtral")[0]
    with cluster.connect() as client:
        golden.assert_matches(layer, client.layer(layer.name, layer.hidden), "f32")


def test_the_death_of_a_keeper_stops_what_it_keeps(tmp_path, ssh):
    path, data = cluster_file(tmp_path, ssh), tmp_path / "data"
    assert up(path, data).returncode == 0
    cluster = LocalCluster(MODEL, data_dir=data)
    try:
        there = cluster.nodes()["router-1"]["pid"]
        cluster.kill("router-1")
        wait_until(lambda: not is_alive(there), 30, "the router behind it has drained and ended")
    finally:
        assert cluster.run("down").returncode == 0


def test_a_machine_that_cannot_be_reached_is_named(tmp_path, ssh):
    failed = up(cluster_file(tmp_path, ssh, second="unreachable"), tmp_path / "data")
    assert failed.returncode == 3
    assert "cannot reach b: ssh: connect to host unreachable: No route to host" in failed.stderr
    assert not pids_under(tmp_path / "data"), "nothing was started"
