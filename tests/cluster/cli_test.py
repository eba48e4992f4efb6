"""The command a person types: exit status, schemas (docs/cli.md), what it starts and leaves behind."""
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess

import numpy as np
import pytest
import yaml

from support import golden, safetensors
from support.cluster import TROUPE, LocalCluster, is_alive, run_troupe
from support.waiting import wait_until

MIXTRAL = golden.FOLDER / "mixtral"


# -- schemas ----------------------------------------------------------------------------------------------------------

def test_up_prints_one_object(mixtral_cluster):
    ready = mixtral_cluster.ready
    assert set(ready) == {"cluster_id", "http", "client", "data_dir", "processes"}
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", ready["http"])
    assert ready["client"].startswith("ipc://")
    assert ready["data_dir"] == str(mixtral_cluster.data_dir)
    assert [(p["role"], p["name"]) for p in ready["processes"]] == [
        ("coordinator", "coordinator"), ("expert", "expert-0"), ("expert", "expert-1"), ("expert", "expert-2"),
        ("router", "router-0")]
    assert all(is_alive(p["pid"]) for p in ready["processes"])


def test_status_schema(mixtral_cluster):
    status = mixtral_cluster.status()
    assert {"cluster_id", "state", "term", "epoch", "model", "nodes", "unroutable_experts", "operations_running"} <= set(status)
    assert status["cluster_id"] == mixtral_cluster.ready["cluster_id"]
    assert status["state"] == "serving"
    assert status["model"]["name"] == "mixtral" and status["model"]["family"] == "mixtral"
    assert {"layers", "experts_per_layer"} <= set(status["model"])
    assert status["unroutable_experts"] == 0


def test_node_list_schema(mixtral_cluster):
    nodes = mixtral_cluster.nodes()
    assert {(n["name"], n["role"]) for n in nodes.values()} >= {
        ("expert-0", "expert"), ("expert-1", "expert"), ("expert-2", "expert"), ("router-0", "router")}
    for node in nodes.values():
        assert {"name", "role", "state", "pid", "address", "device", "slots_total", "slots_used", "bytes_resident",
                "bytes_capacity", "incarnation"} <= set(node)
        assert node["state"] == "serving"
        assert node["pid"] == mixtral_cluster.pid(node["name"])
    experts = [n for n in nodes.values() if n["role"] == "expert"]
    assert sum(n["slots_used"] for n in experts) == 16
    assert all(n["slots_used"] <= n["slots_total"] for n in experts)


def test_expert_list_schema(mixtral_cluster):
    items = mixtral_cluster.json("expert", "list")["items"]
    assert [(e["layer"], e["expert"]) for e in items] == [(layer, expert) for layer in (0, 1) for expert in range(8)]
    for item in items:
        assert {"layer", "expert", "state", "version", "digest", "bytes", "replicas", "tokens_total", "share", "last_used",
                "pinned"} <= set(item)
        assert item["state"] == "active"
        assert re.fullmatch("[0-9a-f]{64}", item["digest"])
        assert len(item["replicas"]) == 1 and set(item["replicas"][0]) >= {"node", "slot", "version"}
    verified = {(e["layer"], e["expert"]): e["digest"]
                for e in json.loads(run_troupe("model", "verify", MIXTRAL, "-o", "json").stdout)["items"]}
    assert {(e["layer"], e["expert"]): e["digest"] for e in items} == verified
    assert {e["layer"] for e in mixtral_cluster.json("expert", "list", "--layer", "1")["items"]} == {1}


def test_encoder_layers_are_named(start_cluster):
    cluster = start_cluster(golden.FOLDER / "switch_transformers", expert_nodes=2, dtype="f32")
    assert {e["layer"] for e in cluster.experts()} == {"encoder.1", "encoder.3", "decoder.1", "decoder.3"}
    assert cluster.run("expert", "show", "encoder.1/3").returncode == 0


def test_formats(mixtral_cluster):
    assert yaml.safe_load(mixtral_cluster.run("status", "-o", "yaml").stdout)["state"] == "serving"
    assert "expert-0" in mixtral_cluster.run("node", "list", "-o", "name").stdout.split()
    assert mixtral_cluster.run("expert", "list", "-o", "name").stdout.split()[0] == "0/0"
    table = mixtral_cluster.run("node", "list").stdout.splitlines()
    wide = mixtral_cluster.run("node", "list", "-o", "wide").stdout.splitlines()
    assert table[0].startswith("NAME") and len(wide[0]) > len(table[0])
    assert "\x1b" not in mixtral_cluster.run("status").stdout
    assert mixtral_cluster.run("events").returncode == 0


def test_the_folder_and_its_secrets_are_private(mixtral_cluster):
    def mode(path):
        return stat.S_IMODE(os.stat(path).st_mode)

    assert mode(mixtral_cluster.data_dir) == 0o700
    assert mode(mixtral_cluster.data_dir / "context.json") == 0o600
    keys = list((mixtral_cluster.data_dir / "keys").glob("*.key"))
    assert {k.stem for k in keys} == {"coordinator", "expert-0", "expert-1", "expert-2", "router-0", "client", "admin"}
    assert all(mode(k) == 0o600 for k in keys)


# -- exit status and errors -------------------------------------------------------------------------------------------

@pytest.mark.fault("A7")
@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["node", "show", "expert-7"], 1, "did you mean expert-"),
    (["node", "drain", "exprt-1", "--yes"], 1, "did you mean expert-1"),
    (["expert", "show", "1/99"], 1, "no expert 1/99; layer 1 has experts 0-7"),
    (["expert", "show", "9/0"], 1, "the MoE layers are 0, 1"),
    (["expert", "show", "banana"], 2, "LAYER/EXPERT"),
    (["expert", "list", "--layer", "x"], 2, "layer"),
    (["node", "lst"], 2, "did you mean list?"),
    (["status", "--bogus"], 2, "--bogus")])
def test_mistakes_are_explained(mixtral_cluster, arguments, code, message):
    for extra in ([], ["-o", "json"]):
        done = mixtral_cluster.run(*arguments, *extra)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("error: ") and message in done.stderr


def test_which_cluster(tmp_path, mixtral_cluster):
    assert run_troupe("status", environment={"TROUPE_DATA_DIR": str(mixtral_cluster.data_dir)}).returncode == 0
    missing = run_troupe("status", environment={"TROUPE_DATA_DIR": str(tmp_path), "TROUPE_OUTPUT": "json"})
    assert missing.returncode == 3 and str(tmp_path) in missing.stderr
    default = run_troupe("status", environment={"HOME": str(tmp_path)})
    assert str(tmp_path / ".local/state/troupe/default") in default.stderr


@pytest.mark.fault("A10")
def test_without_a_coordinator_a_router_answers(start_cluster):
    cluster = start_cluster(MIXTRAL, expert_nodes=1)
    before = cluster.status()
    cluster.kill("coordinator")
    done = cluster.run("status", "-o", "json")
    assert done.returncode == 0 and "coordinator" in done.stderr
    status = json.loads(done.stdout)
    assert status["state"] == "degraded" and status["epoch"] == before["epoch"]
    assert {node["name"]: node["state"] for node in status["nodes"]} == {"coordinator": "lost", "expert-0": "serving"}
    assert "coordinator lost since" in status["reasons"][0]
    assert "expert-0" in cluster.run("node", "list", "-o", "name").stdout.split()
    assert len(cluster.experts()) == 16
    # What only the coordinator can do is refused, and so is everything when nobody is left.
    assert cluster.run("node", "drain", "expert-0", "--yes").returncode == 3
    cluster.kill("router-0")
    done = cluster.run("node", "list")
    assert done.returncode == 3 and done.stderr.startswith("error: ")


# -- starting and stopping --------------------------------------------------------------------------------------------

COMPLETION = """source <("$1" completion bash)
COMP_WORDS=("${@:1}") COMP_CWORD=$(($# - 1))
_troupe
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("line, expected", [
    (["node", "drain", "expert-"], ["expert-0", "expert-1", "expert-2"]),
    (["expert", "migrate", "0/1", "--to", "expert-2"], ["expert-2"]),
    (["expert", "show", "1/"], [f"1/{expert}" for expert in range(8)]),
    (["placement", "h"], ["history"])])
def test_bash_completes_what_the_cluster_knows(mixtral_cluster, line, expected):
    done = subprocess.run(["bash", "-c", COMPLETION, "bash", str(TROUPE), *line], text=True, capture_output=True, timeout=60,
                          env={**os.environ, "TROUPE_DATA_DIR": str(mixtral_cluster.data_dir)})
    assert (done.stdout.split(), done.stderr, done.returncode) == (expected, "", 0)


def test_up_again_starts_nothing_and_refuses_another_model(mixtral_cluster):
    before = mixtral_cluster.context()["processes"]
    again = mixtral_cluster.up()
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == mixtral_cluster.ready
    assert mixtral_cluster.context()["processes"] == before
    other = run_troupe("up", "--model", golden.FOLDER / "olmoe", "--data-dir", mixtral_cluster.data_dir, "--detach")
    assert other.returncode == 4 and "mixtral" in other.stderr
    shape = run_troupe("up", "--model", MIXTRAL, "--expert-nodes", "5", "--data-dir", mixtral_cluster.data_dir, "--detach")
    assert shape.returncode == 4 and "--expert-nodes 5" in shape.stderr


def test_down_ends_everything_and_can_be_repeated():
    cluster = LocalCluster(MIXTRAL, expert_nodes=2)
    cluster.start()
    pids = [p["pid"] for p in cluster.ready["processes"]]
    run_dir = cluster.context()["run_dir"]
    assert cluster.run("down").returncode == 0
    assert not any(is_alive(pid) for pid in pids)
    assert [name for name in os.listdir(run_dir) if name.endswith(".ipc")] == []
    assert cluster.run("down").returncode == 0
    assert cluster.status()["state"] == "stopped"
    # The same folder, another model: a new cluster.
    again = LocalCluster(golden.FOLDER / "olmoe", data_dir=cluster.data_dir, expert_nodes=2)
    again.start()
    assert again.ready["cluster_id"] != cluster.ready["cluster_id"]
    assert again.status()["model"]["name"] == "olmoe"
    again.stop()
    cluster.stop()


def test_a_stopped_cluster_goes_on_where_it_was():
    cluster = LocalCluster(MIXTRAL, expert_nodes=2)
    cluster.start()
    first = cluster.ready["cluster_id"]
    epoch = cluster.status()["epoch"]
    assert cluster.run("down").returncode == 0
    cluster.start()
    assert cluster.ready["cluster_id"] == first
    assert cluster.status()["epoch"] >= epoch
    cluster.stop()


def test_killed_cluster_is_recognised_as_stale():
    cluster = LocalCluster(MIXTRAL, expert_nodes=2)
    cluster.start()
    for process in cluster.ready["processes"]:
        cluster.kill(process["name"])
    assert cluster.status()["state"] == "stopped"
    assert "processes run" in cluster.run("doctor").stdout
    cluster.start()
    assert cluster.status()["state"] == "serving"
    cluster.stop()


def test_a_data_folder_with_a_long_path(tmp_path):
    folder = tmp_path / ("x" * 100)
    cluster = LocalCluster(MIXTRAL, data_dir=folder, expert_nodes=2)
    cluster.start()
    run_dir = cluster.context()["run_dir"]
    assert not run_dir.startswith(str(folder))
    with cluster.connect() as client:
        assert client.status()["state"] == "serving"
    cluster.stop()
    assert not os.path.exists(run_dir)


@pytest.mark.fault("N12")
def test_port_in_use_is_said_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run_troupe("up", "--model", MIXTRAL, "--data-dir", tmp_path / "data", "--http", f"127.0.0.1:{port}", "--detach")
    assert done.returncode == 4
    assert f"port {port}" in done.stderr and f"pid {os.getpid()}" in done.stderr
    assert not (tmp_path / "data" / "context.json").exists()


@pytest.mark.fault("C6", "C14")
@pytest.mark.parametrize(("damage", "message"), [
    (lambda f: (f / "config.json").unlink(), "config.json"),
    (lambda f: (f / "config.json").write_text("{"), "config.json"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "safetensors"),
    (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100), "model.safetensors")])
def test_a_bad_model_starts_nothing(tmp_path, damage, message):
    folder = tmp_path / "model"
    shutil.copytree(MIXTRAL, folder)
    damage(folder)
    done = run_troupe("up", "--model", folder, "--data-dir", tmp_path / "data", "--detach", "-o", "json")
    assert done.returncode == 1
    assert done.stdout == "" and done.stderr.startswith("error: ") and message in done.stderr
    assert not (tmp_path / "data" / "context.json").exists()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_a_usage_error(tmp_path, address):
    done = run_troupe("up", "--model", MIXTRAL, "--data-dir", tmp_path, "--http", address)
    assert done.returncode == 2 and f"--http: '{address}' is not an address" in done.stderr


@pytest.mark.parametrize("flag", [("--slots", "1"), ("--active-experts", "1")])
def test_what_can_never_be_right_with_the_model_is_a_usage_error(tmp_path, flag):
    done = run_troupe("up", "--model", MIXTRAL, "--data-dir", tmp_path, *flag)
    assert done.returncode == 2 and flag[0] in done.stderr


def flip_a_bit(folder, tensor):
    """Of the tensor's first element, in its lowest bits: the value stays finite and its file well-formed."""
    raw = bytearray((folder / "model.safetensors").read_bytes())
    begin = 8 + int.from_bytes(raw[:8], "little")
    raw[begin + json.loads(raw[8:begin])[tensor]["data_offsets"][0]] ^= 1
    (folder / "model.safetensors").write_bytes(raw)


def wait_for_refused_expert(cluster, because):
    """Until expert 0/3 alone has no replica, and the status page says why."""
    def is_refused():
        page = cluster.run("status", "-o", "json").stdout
        return because in page and "expert 0/3" in page and json.loads(page)["unroutable_experts"] == 1

    wait_until(is_refused, 60, lambda: f"{because}: {cluster.run('status').stdout}")
    assert [e["expert"] for e in cluster.experts() if not e["replicas"]] == [3]


@pytest.mark.fault("C4")
def test_weights_that_are_not_those_of_the_manifest_are_not_served(tmp_path, start_cluster):
    folder = tmp_path / "model"
    shutil.copytree(MIXTRAL, folder)
    assert run_troupe("model", "verify", folder, "--write").returncode == 0
    flip_a_bit(folder, "model.layers.0.block_sparse_moe.experts.3.w1.weight")
    wait_for_refused_expert(start_cluster(folder, no_wait=True), "SHA-256")


def test_weights_that_are_not_finite_are_served_only_where_that_was_asked_for(tmp_path, start_cluster):
    folder = tmp_path / "model"
    shutil.copytree(MIXTRAL, folder)
    tensors, metadata = safetensors.decode((folder / "model.safetensors").read_bytes())
    name = "model.layers.0.block_sparse_moe.experts.3.w1.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.inf
    (folder / "model.safetensors").write_bytes(safetensors.encode(tensors, metadata))
    cluster = start_cluster(folder, no_wait=True)
    wait_for_refused_expert(cluster, "--allow-nonfinite")
    served = start_cluster(folder, allow_nonfinite=True)
    assert served.status()["unroutable_experts"] == 0


@pytest.mark.fault("C4")
def test_a_manifest_of_other_files_starts_nothing(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MIXTRAL, folder)
    assert run_troupe("model", "verify", folder, "--write").returncode == 0
    manifest = json.loads((folder / "expert-digests.json").read_text())
    (folder / "expert-digests.json").write_text(json.dumps({**manifest, "fingerprint": "00"}))
    done = LocalCluster(folder, data_dir=tmp_path / "data").up()
    assert done.returncode != 0 and "expert-digests.json was written for other files" in done.stderr
    assert not (tmp_path / "data" / "context.json").exists()


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path):
    data = tmp_path / "data"
    # Something that is no socket sits where the coordinator must listen.
    (data / "run" / "coordinator.control.ipc" / "in-the-way").mkdir(parents=True)
    done = LocalCluster(MIXTRAL, data_dir=data, expert_nodes=2).up()
    assert done.returncode == 1 and done.stdout == ""
    assert "error: coordinator exited with status" in done.stderr
    assert "  | " in done.stderr and "coordinator.control.ipc" in done.stderr, "the last lines of its log"
    assert json.loads((data / "context.json").read_text())["processes"] == []
    running = [p for p in os.listdir("/proc") if p.isdigit() and is_alive(p) and str(data) in command_line(p)]
    assert running == []


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def test_dry_run_starts_nothing(tmp_path):
    done = LocalCluster(MIXTRAL, data_dir=tmp_path / "data", expert_nodes=2).up("--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("would start: ") == 4
    assert not (tmp_path / "data").exists()


def test_foreground_serves_until_it_is_interrupted(tmp_path):
    data = tmp_path / "data"
    with open(tmp_path / "out", "w+") as out:
        process = subprocess.Popen([TROUPE, "up", "--model", MIXTRAL, "--data-dir", data, "-o", "json"], stdout=out, stderr=out)
        try:
            wait_until(lambda: "Ctrl-C" in (tmp_path / "out").read_text(), 120, lambda: (tmp_path / "out").read_text())
            pids = [p["pid"] for p in json.loads((data / "context.json").read_text())["processes"]]
            assert all(is_alive(pid) for pid in pids)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            if process.poll() is None:
                process.kill()
    assert not any(is_alive(pid) for pid in pids)


def test_model_plan_knows_the_memory_of_gpus():
    def plan(*options):
        return run_troupe("model", "plan", golden.FOLDER / "mixtral", *options, "-o", "json")

    done = plan("--device-memory", "1GiB", "--replication", "2")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    node = planned["items"][0]
    assert planned["gpus_needed"] == len(planned["items"]) == 2
    assert node["bytes_needed"] == node["slots_needed"] * planned["slot_bytes"] + planned["scratch_bytes"] <= 2**30
    assert node["slots_needed"] == planned["experts"] and "GPU" in done.stderr
    refused = plan("--device-memory", "8MiB")
    assert refused.returncode == 1 and "8.0 MiB" in refused.stderr, refused.stderr
