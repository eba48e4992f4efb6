"""Experts are pruned, restored and added while rows flow (issue 5, "Must show" 1 and 6)."""
import itertools
import json
import random
import time

import numpy as np
import pytest
import troupe

from support.cluster import http_request
from support.golden import TOLERANCE, relative_error
from support.load import EpochLoad
from support.waiting import wait_until

SLOTS = 24
ROUNDS = 12
# Of each layer, those that come and go. All four combinations of them are computed beforehand.
COME_AND_GO = (3, 9)
MASKS = [mask for size in range(len(COME_AND_GO) + 1) for mask in itertools.combinations(COME_AND_GO, size)]


def right_masks(answer, expected):
    ids = np.sort(answer.expert_ids, 1)
    return {mask for mask, (wanted, output) in expected.items()
            if (ids == wanted).all() and relative_error(answer.output, output) <= TOLERANCE["f32"]}


def masked_load(cluster, model):
    """Answers must each be what the model gives without some of COME_AND_GO."""
    batches = []
    for i in range(12):
        layer = model.layers[i % len(model.layers)]
        hidden = model.rows(32, 700 + i)
        batches.append((layer, hidden, {mask: (np.sort(model.choose(layer, hidden, mask)[0], 1),
                                               model.compute(layer, hidden, mask)) for mask in MASKS}))
    return EpochLoad(cluster, MASKS, batches, right_masks, patience=90)


def slots_used(cluster):
    return sum(node["slots_used"] for node in cluster.nodes().values() if node["role"] == "expert")


def test_experts_come_and_go_and_every_answer_is_that_of_its_epoch(random_model, start_cluster, request):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32")
    choices = random.Random(request.config.getoption("--seed"))
    pruned = set()
    with masked_load(cluster, random_model) as load:
        wait_until(lambda: load.answers >= 10, 60, "the load runs")
        for _ in range(ROUNDS):
            expert = f"{choices.choice(random_model.layers)}/{choices.choice(COME_AND_GO)}"
            verb = "restore" if expert in pruned else "prune"
            done = cluster.json("expert", verb, expert)
            assert (done["state"], done["kind"]) == ("done", verb)
            pruned ^= {expert}
            entry = cluster.expert(expert)
            assert entry["state"] == ("pruned" if expert in pruned else "active")
            assert bool(entry["replicas"]) == (expert not in pruned)
        before = load.answers
        wait_until(lambda: load.answers >= before + 10, 60, "the load goes on")
        status = cluster.status()
        assert (status["pruned_experts"], status["unroutable_experts"], status["state"]) == (len(pruned), 0, "serving")
        for expert in sorted(pruned):
            cluster.json("expert", "restore", expert)
    load.assert_exact()
    assert len({epoch for _, epoch in load.explained_by}) > 3
    assert cluster.status()["pruned_experts"] == 0


def test_a_restored_expert_gives_the_same_bits_again(random_model, start_cluster, capsys):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32")
    hidden = random_model.rows(64, 5)
    used = slots_used(cluster)
    with cluster.connect() as client:
        before = client.layer(1, hidden)
        expert = f"1/{before.expert_ids[0, 0]}"
        cluster.json("expert", "prune", expert)
        assert slots_used(cluster) == used - 1
        without = client.layer(1, hidden)
        assert int(expert[2:]) not in without.expert_ids
        rows = cluster.metric("moe_masked_rows_total", f'expert="{expert[2:]}"')
        assert rows == (before.expert_ids == int(expert[2:])).sum()
        assert 0 < cluster.metric("moe_masked_gate_mass_total", f'expert="{expert[2:]}"') <= 64
        models = json.loads(http_request(cluster.http + "/v1/models")[2])
        assert models["data"][0]["troupe"] == {"masked_experts": 1}
        with pytest.raises(troupe.Error, match=f"expert {expert} is masked") as refused:
            client.experts(1, hidden, before.expert_ids, before.expert_weights)
        assert not refused.value.retryable
        begin = time.monotonic()
        cluster.json("expert", "restore", expert)
        seconds = time.monotonic() - begin
        after = client.layer(1, hidden)
    for name in ("output", "expert_ids", "expert_weights"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    with capsys.disabled():
        print(f"\nrestored by command in {seconds:.2f} s")


def test_a_coordinator_killed_in_a_prune_finishes_it(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32")
    with masked_load(cluster, random_model) as load:
        wait_until(lambda: load.answers >= 10, 60, "the load runs")
        for verb, expert in (("prune", "0/3"), ("prune", "1/9"), ("restore", "0/3")):
            started = cluster.json("expert", verb, expert, "--no-wait")
            cluster.kill("coordinator")
            cluster.start_missing()
            ended = cluster.json("op", "watch", started["operation"])
            assert (ended["state"], ended["object"]) == ("done", expert)
    load.assert_exact()
    assert cluster.expert("0/3")["state"] == "active"
    assert cluster.expert("1/9")["state"] == "pruned"


def test_a_progressive_start_loads_few_experts_and_adds_others(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32", active_experts=4)
    status = cluster.status()
    layers = len(random_model.layers)
    assert (status["state"], status["unroutable_experts"]) == ("serving", 0)
    assert status["dormant_experts"] == layers * (random_model.experts - 4)
    assert slots_used(cluster) == layers * 4
    hidden = random_model.rows(32, 6)
    with cluster.connect() as client:
        masked = list(range(4, random_model.experts))
        assert relative_error(client.layer(0, hidden).output, random_model.compute(0, hidden, masked)) < TOLERANCE["f32"]
        assert cluster.expert("0/11")["state"] == "dormant"
        assert cluster.json("expert", "add", "0/11")["state"] == "done"
        masked.remove(11)
        assert relative_error(client.layer(0, hidden).output, random_model.compute(0, hidden, masked)) < TOLERANCE["f32"]
    assert slots_used(cluster) == layers * 4 + 1


@pytest.mark.fault("A2", "A7")
def test_what_must_not_be_masked_is_refused(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=2, dtype="f32", active_experts=3)
    cluster.json("expert", "prune", "0/0")
    cases = [
        (("expert", "prune", "0/1"), 4, "too few for the 2"),
        (("expert", "prune", "0/99"), 1, "no expert 0/99"),
        (("expert", "restore", "0/7"), 4, "troupe expert add 0/7"),
        (("expert", "add", "0/0"), 4, "troupe expert restore 0/0"),
        (("expert", "migrate", "0/0", "--to", "expert-1"), 4, "is pruned"),
        (("expert", "prune", "zero"), 2, "not an expert"),
    ]
    for words, code, says in cases:
        refused = cluster.run(*words)
        assert refused.returncode == code, (words, refused.returncode, refused.stderr)
        assert says in refused.stderr, (words, refused.stderr)
    again = cluster.json("expert", "prune", "0/0")
    assert (again["state"], again["operation"]) == ("done", "")
    plan = cluster.json("expert", "add", "0/7", "--dry-run")
    assert plan["state"] == "dry_run" and plan["bytes_to_move"] > 0
    assert cluster.expert("0/7")["state"] == "dormant"
    too_few = cluster.run("up", "--model", str(random_model.folder), "--active-experts", "1", "--detach")
    assert too_few.returncode != 0


def test_a_policy_adds_the_experts_that_rows_miss(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32", active_experts=2, policies="add")
    layers = len(random_model.layers)
    hidden = random_model.rows(256, 8)
    with cluster.connect() as client:
        def has_grown():
            for layer in random_model.layers:
                client.layer(layer, hidden)
            return cluster.status()["dormant_experts"] <= layers * (random_model.experts - 4)

        wait_until(has_grown, 90, "two experts of each layer are added")
    added = [o for o in cluster.json("op", "list")["items"] if o["kind"] == "add"]
    assert len(added) >= 2 * layers
    assert {o["who"] for o in added} == {"policy: progressive addition"}
    assert all("of the gate probability of" in o["why"] for o in added)


def test_a_policy_prunes_what_no_row_chooses_and_restore_brings_the_same_bits(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, policies="prune", prune_window="10s")
    cold = {f"{layer}/{expert}" for layer in random_model.layers for expert in COME_AND_GO}
    hot = [expert for expert in range(random_model.experts) if expert not in COME_AND_GO]
    hidden = random_model.rows(16 * len(hot), 9)
    ids = np.array([(expert, hot[i - 1]) for i, expert in enumerate(hot)] * 16, dtype=np.int32)
    weights = np.full(ids.shape, 0.5, dtype=np.float32)
    with cluster.connect() as client:
        before = [client.layer(layer, hidden) for layer in random_model.layers]

        def is_pruned():
            for layer in random_model.layers:
                client.experts(layer, hidden, ids, weights)
            status = cluster.status()
            return (status["pruned_experts"], status["operations_running"]) == (len(cold), 0)

        wait_until(is_pruned, 90, "the cold experts are pruned")
        # Nothing is sent from here on, so none of them is judged again.
        pruned = [o for o in cluster.json("op", "list")["items"] if o["kind"] == "prune"]
        assert {o["object"] for o in pruned} == cold
        assert {o["who"] for o in pruned} == {"policy: pruning"}
        assert all("gate weight x output norm" in o["why"] for o in pruned)
        for expert in sorted(cold, reverse=True):
            cluster.json("expert", "restore", expert)
        after = [client.layer(layer, hidden) for layer in random_model.layers]
    for a, b in zip(before, after):
        for name in ("output", "expert_ids", "expert_weights"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_policy_gives_a_hot_expert_a_second_node(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=3, slots=SLOTS, dtype="f32", policies="balance")
    hidden = random_model.rows(240, 10)
    ids = np.array([(0, 1 + i % (random_model.experts - 1)) for i in range(len(hidden))], dtype=np.int32)
    weights = np.full(ids.shape, 0.5, dtype=np.float32)
    with cluster.connect() as client:
        before = client.experts(0, hidden, ids, weights).output

        def is_replicated():
            answer = client.experts(0, hidden, ids, weights)
            assert not answer.flags.any()
            assert relative_error(answer.output, before) < TOLERANCE["f32"]
            return len(cluster.expert("0/0")["replicas"]) > 1

        wait_until(is_replicated, 90, "the hot expert is on two nodes")
    made = next(o for o in cluster.json("op", "list")["items"] if o["object"] == "0/0")
    assert (made["kind"], made["who"]) == ("replicate", "policy: balancing")
    assert "more of the layer's rows than the mean" in made["why"]
