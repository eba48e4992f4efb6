"""kill -9 of each party while an operation stands at a step that `op show` names (issue 5, "Must show" 2). The steps in
between are held in tests/coordinator/core/operation_faults_test.cpp."""
import contextlib
import json
import signal

from support.load import SteadyLoad, batches_of
from support.waiting import wait_until

NODES = ("expert-0", "expert-1", "expert-2")
SECONDS = 60


@contextlib.contextmanager
def asleep(cluster, name):
    pid = cluster.pid(name)
    cluster.signal(name, signal.SIGSTOP)
    try:
        yield
    finally:
        if cluster.pid(name) == pid:
            with contextlib.suppress(ProcessLookupError):  # it may have been the one to be killed
                cluster.signal(name, signal.SIGCONT)


def places(cluster, expert):
    return [replica["node"] for replica in cluster.expert(expert)["replicas"]]


def wait_at_rest(cluster, story):
    """Every expert has one replica, and no slot is used for anything else: the planner has evened out what a kill left."""
    cluster.wait_complete(1)

    def is_at_rest():
        experts, nodes = cluster.experts(), cluster.nodes().values()
        used = sum(node["slots_used"] for node in nodes if node["role"] == "expert")
        return used == len(experts) and all(len(expert["replicas"]) == 1 for expert in experts)

    wait_until(is_at_rest, SECONDS, lambda: f"the placement is at rest; {story}\n{cluster.logs()}")


def begin_migrate(cluster, expert, step):
    """-> (operation, source, target, what wakes the sleeper); again while the planner itself is bringing the expert there."""
    def begin():
        source = places(cluster, expert)[0]
        target = next(name for name in NODES if name != source)
        with contextlib.ExitStack() as sleeping:
            sleeping.enter_context(asleep(cluster, target if step == "reserve" else "router-0"))
            done = cluster.run("expert", "migrate", expert, "--to", target, "--no-wait", "-o", "json")
            if done.returncode == 4 and "already" in done.stderr:
                return None
            assert done.returncode == 0, done.stderr
            if not json.loads(done.stdout)["operation"]:
                return None  # it had brought it there already
            return json.loads(done.stdout)["operation"], source, target, sleeping.pop_all()

    return wait_until(begin, SECONDS, f"{expert} migrates")


def migrate_and_kill(cluster, load, expert, step, victim):
    """`step`: reserve, held by a target that sleeps, or acknowledge, held by a router that sleeps."""
    number, source, target, sleeping = begin_migrate(cluster, expert, step)
    story = f"{expert} from {source} to {target}, {victim} killed at {step}"
    with sleeping:
        seen = wait_until(lambda: (now := cluster.json("op", "show", number))["step"] == step and now, SECONDS, story)
        assert (seen["state"], seen["object"], seen["to"]) == ("running", expert, target), story
        cluster.kill({"source": source, "target": target}.get(victim, victim))
    cluster.start_missing()
    watched = cluster.run("op", "watch", number)
    ended = cluster.json("op", "show", number)
    assert (watched.returncode, ended["state"]) in ((0, "done"), (4, "rolled_back")), (story, ended, watched.stderr)
    wait_at_rest(cluster, story)
    if victim == "coordinator":
        assert ended["state"] == "done", (story, ended)
    if ended["state"] == "done" and victim != "target":
        assert places(cluster, expert) == [target], (story, ended)
    if ended["state"] == "rolled_back":
        assert target in ended["reason"], (story, ended)
    answers = load.answers()
    wait_until(lambda: load.answers() >= answers + 10, SECONDS, lambda: f"rows are answered; {story}\n{cluster.logs()}")


def test_any_party_killed_at_a_step_leaves_a_consistent_placement(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=24, dtype="f32")
    with SteadyLoad(cluster, batches_of(random_model, 16, 32, seed=24), timeout=SECONDS) as load:
        wait_until(lambda: load.answers() >= 10, SECONDS, "the load runs")
        for step in ("reserve", "acknowledge"):
            for expert, victim in (("0/3", "coordinator"), ("1/5", "source"), ("0/9", "target")):
                migrate_and_kill(cluster, load, expert, step, victim)
    load.assert_exact()
    assert cluster.status()["operations_running"] == 0
    assert cluster.status()["unroutable_experts"] == 0
