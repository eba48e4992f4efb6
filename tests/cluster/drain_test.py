"""node drain: make before break, under load, and back (issue "Must show" 7)."""
import pytest

from support.load import SteadyLoad, batches_of
from support.waiting import wait_until


def test_drain_under_load_and_undrain(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, dtype="f32")
    with SteadyLoad(cluster, batches_of(random_model, 16, 64, seed=11), timeout=10) as load:
        wait_until(lambda: load.answers() >= 10, 60, "the load runs")
        done = cluster.run("node", "drain", "expert-1", "--yes")
        assert done.returncode == 0, done.stderr
        node = cluster.nodes()["expert-1"]
        assert (node["state"], node["slots_used"]) == ("draining", 0)
        assert "expert-1" not in {r["node"] for e in cluster.experts() for r in e["replicas"]}
        done = cluster.run("node", "undrain", "expert-1")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: cluster.nodes()["expert-1"]["slots_used"] > 0, 60, "it gets work again")
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 10, 60, "the load goes on")
    load.assert_exact()


@pytest.mark.fault("A3")
def test_draining_twice_is_fine(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, dtype="f32")
    for _ in range(2):
        done = cluster.run("node", "drain", "expert-0", "--yes")
        assert done.returncode == 0, done.stderr
    done = cluster.run("node", "undrain", "expert-0")
    assert done.returncode == 0, done.stderr


@pytest.mark.fault("A2")
def test_a_drain_that_has_no_room_changes_nothing(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=2, slots=16, dtype="f32")
    before = cluster.status()["epoch"]
    done = cluster.run("node", "drain", "expert-0", "--yes", "--timeout", "20s")
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
    # Nothing became unreachable.
    assert cluster.status()["unroutable_experts"] == 0
    assert cluster.status()["epoch"] >= before


def test_dry_run_only_says(mixtral_cluster):
    before = mixtral_cluster.nodes()["expert-0"]
    done = mixtral_cluster.run("node", "drain", "expert-0", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert mixtral_cluster.nodes()["expert-0"]["state"] == before["state"] == "serving"


def test_remove_of_a_serving_node_is_refused(mixtral_cluster):
    done = mixtral_cluster.run("node", "remove", "expert-0", "--yes")
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: ")
    assert mixtral_cluster.nodes()["expert-0"]["state"] == "serving"
