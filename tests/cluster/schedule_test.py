"""What a scheduled refresh does besides looking for newer weights: it evens out the loads (issue 5, part 3)."""
import numpy as np

from support.golden import TOLERANCE, relative_error
from support.waiting import wait_until

LAYER, NODES, HOT = 0, 2, 4


def places(cluster):
    """expert of LAYER -> its node"""
    return {e["expert"]: e["replicas"][0]["node"] for e in cluster.experts() if e["layer"] == LAYER}


def rows_for(model, experts, seed):
    """Rows that choose among these experts alone."""
    hidden = model.rows(4000, seed)
    return hidden[np.isin(model.choose(LAYER, hidden)[0], experts).all(1)][:400]


def test_busy_experts_of_one_node_are_put_apart(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=NODES, slots=20, dtype="f32")
    before = places(cluster)
    hot = [expert for expert, node in before.items() if node == before[0]][:HOT]
    cluster.json("refresh", "schedule", "--every-batches", "8", "--max-moves", "4")
    turn = 0
    with cluster.connect() as client:

        def moved():
            nonlocal turn
            turn += 1
            hidden = rows_for(random_model, hot, turn)
            answer = client.layer(LAYER, hidden, timeout=30)
            assert relative_error(answer.output, random_model.compute(LAYER, hidden)) <= TOLERANCE["f32"]
            assert not answer.flags.any()
            operations = cluster.json("op", "list")["items"]
            return any((o["kind"], o["who"], o["state"]) == ("apply", "the schedule", "done") for o in operations)

        wait_until(moved, 90, lambda: f"replicas have changed places\n{cluster.logs()}")
    cluster.json("refresh", "schedule", "--every", "0s")
    now = places(cluster)
    assert sum(now[expert] != before[expert] for expert in now) <= 4
    assert len({now[expert] for expert in hot}) == NODES, "the busy ones are not on one node any more"
    runs = cluster.json("refresh", "history")["runs"]
    run = next(run for run in runs if run["operation"])
    assert run["because"].endswith(" batches") and 0 < run["moves"] <= 4 and "nothing to do" in run["refresh"]
    assert run["imbalance_after"] < run["imbalance_before"] <= NODES + 1e-9
