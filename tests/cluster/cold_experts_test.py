"""Cold experts: who is one, what is kept of the rows that it gets, and rows that try it (issue 5, part 4)."""
import json

import numpy as np

from support import safetensors
from support.cluster import http_request
from support.golden import TOLERANCE, relative_error
from support.waiting import wait_until

LAYER, COLD, SUBSTITUTED = 0, 5, 1


class Traffic:
    """Rows of which one in `every` goes to the cold expert, and what became of them."""

    def __init__(self, model, client):
        self.model, self.client, self.turn = model, client, 0
        self.sent = {}  # bytes of a row that went to the cold expert -> its gate weight

    def rows(self, count, to_cold):
        hidden = self.model.rows(16 * count, self.turn)
        self.turn += 1
        is_cold = (self.model.choose(LAYER, hidden)[0] == COLD).any(1)
        return np.concatenate([hidden[~is_cold][:count], hidden[is_cold][:to_cold]])

    def send(self, count=300, to_cold=1):
        hidden = self.rows(count, to_cold)
        answer = self.client.layer(LAYER, hidden, timeout=30)
        for row, ids, weights in zip(hidden, answer.expert_ids, answer.expert_weights):
            if COLD in ids:
                self.sent[row.tobytes()] = weights[list(ids).index(COLD)]
        return hidden, answer

    def until_cold(self, cluster):
        def is_cold():
            self.send(to_cold=0)
            return cluster.expert(f"{LAYER}/{COLD}")["cold"]

        wait_until(is_cold, 30, lambda: f"{LAYER}/{COLD} is cold\n{cluster.logs()}")


def test_a_cold_expert_is_named_and_its_inputs_are_those_that_were_sent(random_model, start_cluster, tmp_path):
    cluster = start_cluster(random_model.folder, expert_nodes=1, dtype="f32", cold_reservoir_rows=8)
    file = tmp_path / "inputs.safetensors"
    with cluster.connect() as client:
        traffic = Traffic(random_model, client)
        traffic.until_cold(cluster)
        assert [e["expert"] for e in cluster.experts() if e["cold"]] == [COLD]
        assert cluster.status()["cold_experts"] == 1
        explained = cluster.json("expert", "explain", f"{LAYER}/{COLD}")
        assert any(line.startswith("cold for") for line in explained["reasons"]), explained
        assert (f"{LAYER}/{COLD}", "expert_cold") in [(e["object"], e["kind"]) for e in cluster.json("events")["items"]]
        metrics = cluster.context()["coordinator"]["http"] + "/metrics"
        wait_until(lambda: f'moe_cold_experts{{layer="{LAYER}"}} 1' in http_request(metrics)[2].decode(), 10, "it is counted")

        exported = {}

        def enough():
            hidden, answer = traffic.send()
            assert relative_error(answer.output, random_model.compute(LAYER, hidden)) <= TOLERANCE["f32"]
            assert not answer.flags.any()
            done = cluster.run("expert", "export-inputs", f"{LAYER}/{COLD}", "--out", file, "-o", "json")
            exported.update(json.loads(done.stdout) if done.returncode == 0 else {})
            return exported.get("rows_seen", 0) > 8

        wait_until(enough, 60, lambda: f"more rows than are kept; {exported}\n{cluster.logs()}")

    tensors, metadata = safetensors.decode(file.read_bytes())
    assert exported["rows"] == 8 == len(tensors["hidden_states"])
    assert len({row.tobytes() for row in tensors["hidden_states"]}) == 8
    for row, weight in zip(tensors["hidden_states"], tensors["expert_weights"]):
        assert traffic.sent[row.tobytes()] == weight, "a row of the client's that went to this expert, and its gate weight"
    assert (tensors["sample_weight"] == 3).all()
    assert (metadata["layer"], metadata["expert"]) == (str(LAYER), str(COLD))
    assert int(metadata["epoch"]) == cluster.status()["epoch"]
    refused = cluster.run("expert", "export-inputs", f"{LAYER}/{COLD + 1}", "--out", tmp_path / "none")
    assert refused.returncode == 1 and "no input of expert" in refused.stderr and not (tmp_path / "none").exists()


def test_rows_try_a_cold_expert_within_the_bound_and_say_so(random_model, start_cluster):
    bias = 0.1
    cluster = start_cluster(random_model.folder, expert_nodes=1, dtype="f32", explore_bias=bias)
    model_entry = json.loads(http_request(cluster.http + "/v1/models")[2])["data"][0]
    assert model_entry["troupe"]["explore_bias"] == bias
    weights = random_model.tensors[f"model.layers.{LAYER}.block_sparse_moe.gate.weight"]
    with cluster.connect() as client:
        traffic = Traffic(random_model, client)
        # Told of it, rows try it at once, and it is warm soon: a few of them are enough.
        seen = []

        def tried():
            hidden, answer = traffic.send(to_cold=0)
            if answer.flags.any():
                seen.append((hidden, answer))
            return bool(seen)

        wait_until(tried, 60, lambda: f"rows try {LAYER}/{COLD}\n{cluster.logs()}")
    hidden, answer = seen[0]
    exact = random_model.choose(LAYER, hidden)[0]
    changed = (answer.expert_ids != exact).any(1)
    assert (answer.flags == np.where(changed, SUBSTITUTED, 0)).all()
    assert (answer.expert_ids[changed, -1] == COLD).all() and (answer.expert_ids[:, 0] == exact[:, 0]).all()
    logits = hidden @ weights.T
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    rows = np.nonzero(changed)[0]
    lost = probability[rows, exact[rows, -1]] - probability[rows, COLD]
    assert (lost <= bias + 1e-5).all() and (lost >= 0).all()
    # What it computes: the experts that it names, weighed as the family does.
    for row in rows[:4]:
        others = [e for e in range(random_model.experts) if e not in answer.expert_ids[row]]
        wanted = random_model.compute(LAYER, hidden[row : row + 1], others)
        assert relative_error(answer.output[row : row + 1], wanted) <= TOLERANCE["f32"]
    assert cluster.metric("moe_explored_rows_total") >= len(rows)
