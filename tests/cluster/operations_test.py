"""Experts move, are replicated and go back while every row of every answer is checked (issue 5, "Must show" 1 and 2)."""
import json
import random
import signal

import pytest

from support.load import SteadyLoad, batches_of
from support.waiting import wait_until

OPERATIONS = 60
SLOTS = 24


class Operator:
    """Random operations on a cluster with replication 1; each must be done when its command returns."""

    def __init__(self, cluster, seed):
        self.cluster, self.random = cluster, random.Random(seed)
        self.replicated, self.drained = {}, None

    def places(self):
        return {f"{e['layer']}/{e['expert']}": [r["node"] for r in e["replicas"]] for e in self.cluster.experts()}

    def do(self, *words):
        done = self.cluster.run(*words, "-o", "json")
        assert done.returncode == 0, f"troupe {words}: {done.returncode}: {done.stderr}\n{self.cluster.logs()}"
        return json.loads(done.stdout)

    def step(self):
        kind = self.random.choice(["migrate", "migrate", "migrate", "replicate", "replicate", "drain"])
        getattr(self, kind)()

    def migrate(self):
        places = self.places()
        expert = self.random.choice(sorted(places))
        free = [n for n in ("expert-0", "expert-1", "expert-2") if n not in places[expert] and n != self.drained]
        if not free:
            return self.unreplicate(expert)
        to = self.random.choice(free)
        done = self.cluster.run("expert", "migrate", expert, "--to", to, "-o", "json")
        if done.returncode == 4 and "already" in done.stderr:
            return None  # after an undrain the planner itself was bringing it there
        assert done.returncode == 0, done.stderr
        operation = json.loads(done.stdout)
        if "already" in operation.get("message", ""):
            return None  # it had brought it there
        assert (operation["state"], operation["to"]) == ("done", to)
        assert to in self.places()[expert]
        return None

    def replicate(self):
        if len(self.replicated) >= 4:
            return self.unreplicate(self.random.choice(sorted(self.replicated)))
        expert = self.random.choice(sorted(self.places()))
        if expert in self.replicated:
            return self.unreplicate(expert)
        self.do("expert", "replicate", expert, "--count", "2")
        self.replicated[expert] = 2
        # The planner may be moving one of them: then there is one more for a moment.
        assert len(self.places()[expert]) >= 2

    def unreplicate(self, expert):
        self.do("expert", "replicate", expert, "--count", "1")
        self.replicated.pop(expert, None)

    def drain(self):
        if self.drained:
            self.do("node", "undrain", self.drained)
            self.drained = None
        else:
            self.drained = self.random.choice(["expert-0", "expert-1", "expert-2"])
            self.do("node", "drain", self.drained, "--yes")


def test_random_operations_change_no_row(random_model, start_cluster, request):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32")
    operator = Operator(cluster, request.config.getoption("--seed"))
    with SteadyLoad(cluster, batches_of(random_model, 16, 32, seed=21), timeout=30) as load:
        wait_until(lambda: load.answers() >= 10, 60, "the load runs")
        for _ in range(OPERATIONS):
            operator.step()
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 10, 60, "the load goes on")
    load.assert_exact()
    operations = cluster.json("op", "list")["items"]
    assert len(operations) >= OPERATIONS // 2
    assert {o["state"] for o in operations} == {"done"}
    assert cluster.status()["operations_running"] == 0
    kinds = {event["kind"] for event in cluster.json("events")["items"]}
    assert {"operation_started", "operation_done"} <= kinds


def away_from(cluster, expert):
    at = [r["node"] for r in cluster.expert(expert)["replicas"]]
    return at, next(n for n in ("expert-0", "expert-1", "expert-2") if n not in at)


def test_a_coordinator_killed_in_a_migrate_goes_on(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32")
    with SteadyLoad(cluster, batches_of(random_model, 16, 32, seed=22), timeout=60) as load:
        wait_until(lambda: load.answers() >= 10, 60, "the load runs")
        for expert in ("0/3", "1/5", "0/9"):
            _, to = away_from(cluster, expert)
            started = cluster.json("expert", "migrate", expert, "--to", to, "--no-wait")
            cluster.kill("coordinator")
            cluster.start_missing()
            ended = cluster.json("op", "watch", started["operation"])
            assert (ended["state"], ended["object"], ended["to"]) == ("done", expert, to)
            assert cluster.json("op", "show", started["operation"]) == ended
            assert away_from(cluster, expert)[0] == [to]
    load.assert_exact()


def test_a_cancelled_migrate_goes_back(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32")
    at, to = away_from(cluster, "0/3")
    with SteadyLoad(cluster, batches_of(random_model, 16, 32, seed=23), timeout=60) as load:
        wait_until(lambda: load.answers() >= 10, 60, "the load runs")
        # The target sleeps: the copy cannot end.
        cluster.signal(to, signal.SIGSTOP)
        try:
            started = cluster.json("expert", "migrate", "0/3", "--to", to, "--no-wait")
            cancelling = cluster.run("op", "cancel", started["operation"], "--no-wait", "-o", "json")
            assert cancelling.returncode == 0, cancelling.stderr
            other = next(n for n in ("expert-0", "expert-1", "expert-2") if n not in (*at, to))
            refused = cluster.run("expert", "migrate", "0/3", "--to", other)
            assert refused.returncode == 4, refused.stderr
            assert started["operation"] in refused.stderr
        finally:
            cluster.signal(to, signal.SIGCONT)
        ended = cluster.json("op", "watch", started["operation"])
        assert ended["state"] == "cancelled"
        assert away_from(cluster, "0/3")[0] == at
    load.assert_exact()


@pytest.mark.fault("A2", "A3", "A7")
def test_bad_operations_are_refused_at_once(mixtral_cluster):
    cases = [
        (("expert", "migrate", "0/99", "--to", "expert-0"), 1, "no expert 0/99"),
        (("expert", "migrate", "0/0", "--to", "nowhere"), 1, "no node nowhere"),
        (("expert", "migrate", "0/0", "--to", "router-0"), 1, "router"),
        (("expert", "migrate", "zero", "--to", "expert-0"), 2, "not an expert"),
        (("expert", "replicate", "0/0", "--count", "9"), 4, "nodes"),
        (("expert", "replicate", "0/0", "--count", "0"), 2, "--count"),
        (("placement", "rollback", "999"), 1, "epoch 999 is not remembered"),
        (("placement", "rollback", "-1"), 2, "epoch"),
        (("refresh", "schedule", "--every-batches", "-1"), 2, "--every-batches"),
        (("refresh", "now", "--from", "no-such-folder"), 1, "/no-such-folder is not a folder"),
        (("op", "cancel", "op-999"), 1, "no operation op-999"),
        (("op", "show", "op-999"), 1, "no operation op-999"),
    ]
    for words, code, says in cases:
        done = mixtral_cluster.run(*words)
        assert done.returncode == code, (words, done.returncode, done.stderr)
        assert says in done.stderr, (words, done.stderr)
    at, to = away_from(mixtral_cluster, "0/0")
    repeated = mixtral_cluster.json("expert", "migrate", "0/0", "--to", at[0])
    assert (repeated["state"], repeated["operation"], "already" in repeated["message"]) == ("done", "", True)
    planned = mixtral_cluster.json("expert", "migrate", "0/0", "--to", to, "--dry-run")
    assert (planned["state"], planned["bytes_to_move"] > 0) == ("dry_run", True)
    assert away_from(mixtral_cluster, "0/0")[0] == at


def test_a_planned_placement_is_applied(random_model, start_cluster, tmp_path):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32")
    loads = tmp_path / "loads.csv"
    loads.write_text("step,layer,expert,load\n" + "".join(
        f"0,{layer},{expert},{1000 / (expert + 1)}\n" for layer in random_model.layers for expert in range(16)))
    options = ("--loads", str(loads), "--max-moves", "6")
    plan = cluster.json("placement", "plan", *options)
    assert plan["items"]
    with SteadyLoad(cluster, batches_of(random_model, 16, 32, seed=4)) as load:
        wait_until(lambda: load.answers() >= 10, 60, "the load runs")
        done = cluster.json("placement", "apply", *options)
        assert (done["state"], done["kind"]) == ("done", "apply")
        before = load.answers()
        wait_until(lambda: load.answers() >= before + 10, 60, "the load goes on")
    load.assert_exact()
    after = {(e["layer"], e["expert"]): {r["node"] for r in e["replicas"]} for e in cluster.experts()}
    for item in plan["items"]:
        assert item["to"] in after[item["layer"], item["expert"]]
        assert item["from"] not in after[item["layer"], item["expert"]]
