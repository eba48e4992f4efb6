"""Nodes whose device is the GPU device, with plain loops in place of CUDA (tests/compute/loop_gpu_plugin.cpp)."""
import os
import shutil

import pytest

from support.cluster import BUILD, http_request
from support.load import SteadyLoad, batches_of
from support.random_model import RandomMixtral
from support.waiting import wait_until

BROKEN = "expert-1"


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """Plain loops are slow: 8 experts of 12 KiB in two layers."""
    return RandomMixtral(tmp_path_factory.mktemp("model") / "small-mixtral", hidden=32, width=64, experts=8)


@pytest.fixture
def gpu_programs(tmp_path):
    """A folder with the programs and, beside them, a plug-in that needs no GPU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("troupe", "troupe-coordinator", "troupe-expert", "troupe-router"):
        shutil.copy2(BUILD / "bin" / name, folder)
    shutil.copy2(BUILD / "loop-gpu" / "libtroupe_cuda.so", folder)
    return folder


@pytest.mark.fault("G3")
def test_a_gpu_that_is_lost_in_a_batch_costs_no_row(small_model, gpu_programs, start_cluster):
    cluster = start_cluster(small_model.folder, expert_nodes=3, replication=2, dtype="f32", device="cuda",
                            program=gpu_programs / "troupe")
    cluster.wait_complete(replicas=2)
    assert {node["device"] for node in cluster.nodes().values() if node["role"] == "expert"} == {"loops:0"}
    with SteadyLoad(cluster, batches_of(small_model, 16, 8, seed=5), clients=4) as load:
        wait_until(lambda: load.answers() >= 50, 60, "the load runs")
        (gpu_programs / f"break.{cluster.pid(BROKEN)}").touch()
        wait_until(lambda: cluster.nodes()[BROKEN]["state"] == "quarantined", 60, lambda: f"{BROKEN} is left out\n{cluster.logs()}")
        cluster.wait_complete(replicas=2)
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 50, 60, "the load goes on")
    load.assert_exact()

    node = cluster.nodes()[BROKEN]
    assert "the loops were told to be lost" in node["detail"] and node["slots_used"] == 0, node
    assert all(BROKEN not in {r["node"] for r in e["replicas"]} for e in cluster.experts())
    told = [event for event in cluster.json("events")["items"] if event["kind"] == "node_quarantined"]
    assert len(told) == 1 and "the loops were told to be lost" in told[0]["text"], told
    assert any("the loops were told to be lost" in reason for reason in cluster.status()["reasons"])
    status, _, body = http_request(f"http://{node['http']}/readyz")
    assert status == 503 and b"the loops were told to be lost" in body, body

    # A new process has a new device.
    pid = cluster.pid(BROKEN)
    os.remove(gpu_programs / f"break.{pid}")
    cluster.kill(BROKEN)
    cluster.start_missing()
    wait_until(lambda: cluster.nodes()[BROKEN]["state"] == "serving", 60, lambda: f"{BROKEN} is back\n{cluster.logs()}")
