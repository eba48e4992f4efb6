"""Nodes that die, freeze and come back, under load: no row is lost, doubled or wrong (issue "Must show" 6)."""
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support import golden
from support.load import SteadyLoad, batches_of
from support.waiting import wait_until

FREEZE_SECONDS = 10
MEASURED_SECONDS = 3


def wait_lost(cluster, name):
    wait_until(lambda: cluster.nodes()[name]["state"] == "lost", 30, f"{name} is given up")


def holders(cluster):
    """expert (layer, index) -> names of the nodes that hold it"""
    return {(e["layer"], e["expert"]): {r["node"] for r in e["replicas"]} for e in cluster.experts()}


def rows_for_nodes(model, cluster, layer, wanted, avoided, seed):
    """Rows whose experts include one that only `wanted` holds, or (avoided) none that `avoided` holds."""
    where = holders(cluster)
    hidden = model.rows(512, seed)
    ids = model.choose(layer, hidden)[0]
    nodes = [set().union(*(where[(layer, int(e))] for e in row)) for row in ids]
    keep = [wanted in n if wanted else avoided not in n for n in nodes]
    chosen = hidden[np.array(keep)]
    assert len(chosen) > 0
    return chosen


@pytest.mark.fault("P1")
def test_killed_node_with_two_replicas_loses_no_row(random_model, start_cluster, record_property):
    cluster = start_cluster(random_model.folder, expert_nodes=3, replication=2, dtype="f32")
    with SteadyLoad(cluster, batches_of(random_model, 16, 64, seed=1)) as load:
        wait_until(lambda: load.answers() >= 20, 60, "the load runs")
        whole = load.rows_per_second_over(MEASURED_SECONDS)
        cluster.kill("expert-1")
        killed = time.monotonic()
        by_half_second = [load.rows_per_second_over(0.5) for _ in range(8)]
        wait_lost(cluster, "expert-1")
        lost_after = time.monotonic() - killed
        # The lost replicas are rebuilt on the two that are left.
        cluster.wait_complete(replicas=2)
        rebuilt_after = time.monotonic() - killed
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 20, 60, "the load goes on")
    load.assert_exact()
    # Figures, not conditions: how fast it goes depends on what else the machine does.
    measured = {"rows/s before": round(whole), "rows/s in each half second after": [round(r) for r in by_half_second],
                "lost after s": round(lost_after, 1), "rebuilt after s": round(rebuilt_after, 1)}
    print(f"\n{measured}")
    for name, value in measured.items():
        record_property(name, value)


@pytest.mark.fault("P1", "P7")
def test_killed_node_with_one_replica_makes_requests_wait_and_succeed(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, replication=1, dtype="f32")
    needs_lost = rows_for_nodes(random_model, cluster, 0, "expert-1", None, seed=2)
    others = rows_for_nodes(random_model, cluster, 0, None, "expert-1", seed=3)
    with cluster.connect() as waiting, cluster.connect() as going_on, ThreadPoolExecutor(1) as pool:
        going_on.layer(0, others)
        cluster.kill("expert-1")
        waits = pool.submit(waiting.layer, 0, needs_lost, timeout=60)
        answer = going_on.layer(0, others, timeout=20)
        # The lost experts come back seconds later, when the node is given up.
        assert not waits.done(), "rows that do not need the lost experts must not wait for them"
        assert golden.relative_error(answer.output, random_model.compute(0, others)) <= golden.TOLERANCE["f32"]
        answer = waits.result()
        assert golden.relative_error(answer.output, random_model.compute(0, needs_lost)) <= golden.TOLERANCE["f32"]
        assert not answer.flags.any()
    wait_lost(cluster, "expert-1")
    cluster.wait_complete(replicas=1)


@pytest.mark.fault("P7")
def test_the_other_policies_when_no_replica_is_left(random_model, start_cluster):
    # One node only: nowhere to reload.
    cluster = start_cluster(random_model.folder, expert_nodes=1, dtype="f32")
    import troupe

    hidden = random_model.rows(4, seed=4)
    with cluster.connect() as client:
        client.layer(0, hidden)
        cluster.kill("expert-0")
        # At once, not when its time is over: that would be a Timeout.
        with pytest.raises(troupe.Unavailable):
            client.layer(0, hidden, degrade="fail", timeout=20)
        with pytest.raises(troupe.Timeout):
            client.layer(0, hidden, timeout=1)


@pytest.mark.fault("P1")
def test_a_killed_node_that_is_started_again_serves_again(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, replication=2, dtype="f32")
    before = cluster.nodes()["expert-2"]
    cluster.kill("expert-2")
    cluster.start_missing()
    cluster.wait_complete(replicas=2)
    after = cluster.nodes()["expert-2"]
    assert after["state"] == "serving"
    assert after["incarnation"] > before["incarnation"]
    batch = batches_of(random_model, 1, 64, seed=5)[0]
    with cluster.connect() as client:
        answer = client.layer(batch.layer, batch.hidden)
    assert golden.relative_error(answer.output, batch.expected) <= golden.TOLERANCE["f32"]


@pytest.mark.fault("P2", "W13")
def test_frozen_node_wakes_up_late(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, replication=2, dtype="f32")
    with SteadyLoad(cluster, batches_of(random_model, 16, 64, seed=6)) as load:
        wait_until(lambda: load.answers() >= 20, 60, "the load runs")
        cluster.signal("expert-0", signal.SIGSTOP)
        frozen = time.monotonic()
        wait_lost(cluster, "expert-0")
        wait_until(lambda: time.monotonic() - frozen >= FREEZE_SECONDS, 30, "it has been frozen for long enough")
        cluster.wake("expert-0", 60)
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 20, 60, "the load goes on")
    load.assert_exact()
    cluster.wait_complete(replicas=2)


def placement(cluster):
    return {(e["layer"], e["expert"]): (e["digest"], e["version"], sorted((r["node"], r["slot"]) for r in e["replicas"]))
            for e in cluster.experts()}


def test_serving_goes_on_without_a_coordinator_and_its_restart_changes_nothing(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, dtype="f32")
    epoch, placed = cluster.status()["epoch"], placement(cluster)
    with SteadyLoad(cluster, batches_of(random_model, 16, 64, seed=7)) as load:
        wait_until(lambda: load.answers() >= 10, 60, "the load runs")
        cluster.kill("coordinator")
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 40, 60, "serving goes on")
        cluster.start_missing()
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 10, 60, "serving goes on")
    load.assert_exact()
    status = cluster.wait_for_status(lambda s: s["state"] == "serving", 30, "serving again")
    assert status["epoch"] == epoch
    assert placement(cluster) == placed


def test_killed_router_is_started_again_where_it_was(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=2, routers=2, dtype="f32")
    batch = batches_of(random_model, 1, 16, seed=8)[0]
    http = cluster.http
    with cluster.connect() as client:
        client.layer(batch.layer, batch.hidden)
        cluster.kill("router-0")
        # The context names both routers: the client goes to the other one.
        answer = client.layer(batch.layer, batch.hidden, timeout=30)
        assert golden.relative_error(answer.output, batch.expected) <= golden.TOLERANCE["f32"]
    cluster.start_missing()
    assert cluster.http == http


@pytest.mark.fault("D8")
def test_a_second_coordinator_on_one_folder_exits(mixtral_cluster):
    command = next(p["command"] for p in mixtral_cluster.context()["processes"] if p["role"] == "coordinator")
    second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode != 0
    assert "already running" in second.stderr + second.stdout
    assert str(mixtral_cluster.pid("coordinator")) in second.stderr + second.stdout
    assert mixtral_cluster.status()["state"] == "serving"


@pytest.mark.fault("P11")
def test_a_node_of_another_cluster_is_refused(random_model, start_cluster):
    """It has served cluster A; cluster A goes and cluster B answers at the same address."""
    other = start_cluster(random_model.folder, expert_nodes=2, dtype="f32")
    old_id = other.context()["cluster_id"]
    zombie = other.pid("expert-1")
    os.kill(zombie, signal.SIGSTOP)
    for name in ("coordinator", "router-0", "expert-0"):
        other.kill(name)
    os.kill(zombie, signal.SIGCONT)
    command = list(other.context()["processes"][0]["command"])
    new_id = "00000000-0000-4000-8000-000000000000"
    command[command.index("--cluster-id") + 1] = new_id
    (other.data_dir / "coordinator").rename(other.data_dir / "coordinator.earlier")
    log = other.data_dir / "log" / "expert-1.log"
    with open(other.data_dir / "log" / "impostor.log", "wb") as out:
        impostor = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        # Both ids: where it belongs, and who answers.
        wait_until(lambda: any(old_id in line and new_id in line for line in log.read_text().splitlines()), 30,
                   lambda: f"the zombie says which cluster it belongs to:\n{other.logs()}")
    finally:
        impostor.kill()
        impostor.wait(10)
