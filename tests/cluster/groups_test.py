"""Rows that choose inside some groups of experts, and groups that follow nodes (issue 5, "Must show" 9)."""
import json

import numpy as np
import pytest
import troupe

from support import golden
from support.cluster import http_request
from support.golden import TOLERANCE, relative_error
from support.random_model import RandomMixtral

GROUPS, KEPT, NODES = 8, 2, 4


class LimitedTwin(RandomMixtral):
    """Top-4 of 16 experts, and the reference of a gate that chooses inside its best KEPT of GROUPS groups."""

    def __init__(self, folder):
        super().__init__(folder, hidden=128, width=64, top_k=4, seed=5)

    def outside(self, layer, hidden):
        """Of each row the experts that it must not choose. A group is as good as its best expert."""
        logits = hidden @ self.tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"].T
        size = self.experts // GROUPS
        score = logits.reshape(len(hidden), GROUPS, size).max(2)
        kept = np.argsort(-score, 1, kind="stable")[:, :KEPT]
        return [np.nonzero(~np.isin(np.arange(self.experts) // size, row))[0] for row in kept]

    def compute_limited(self, layer, hidden):
        """-> (output, ids): row by row, because each masks experts of its own."""
        answers = [(self.compute(layer, row[None], outside), self.choose(layer, row[None], outside)[0])
                   for row, outside in zip(hidden, self.outside(layer, hidden))]
        return np.concatenate([a[0] for a in answers]), np.concatenate([a[1] for a in answers])


@pytest.fixture(scope="module")
def limited_model(tmp_path_factory):
    return LimitedTwin(tmp_path_factory.mktemp("limited") / "mixtral")


def nodes_of_groups(cluster, size):
    """(layer, group) -> the nodes that hold its experts."""
    found = {}
    for e in cluster.experts():
        found.setdefault((e["layer"], e["expert"] // size), set()).update(r["node"] for r in e["replicas"])
    return found


def sum_and_count(cluster, name):
    return np.array([cluster.metric(name + "_sum"), cluster.metric(name + "_count")])


def test_rows_choose_inside_their_best_groups_say_so_and_touch_few_nodes(limited_model, start_cluster):
    cluster = start_cluster(limited_model.folder, expert_nodes=NODES, dtype="f32", route_groups=GROUPS, route_groups_kept=KEPT)
    size = limited_model.experts // GROUPS
    assert all(len(nodes) == 1 for nodes in nodes_of_groups(cluster, size).values())
    rows = changed_rows = 0
    with cluster.connect() as client:
        for layer in limited_model.layers:
            hidden = limited_model.rows(64, 40 + layer)
            answer = client.layer(layer, hidden)
            output, ids = limited_model.compute_limited(layer, hidden)
            np.testing.assert_array_equal(np.sort(answer.expert_ids, 1), np.sort(ids, 1))
            assert relative_error(answer.output, output) <= TOLERANCE["f32"]
            whole = np.sort(limited_model.choose(layer, hidden)[0], 1)
            changed = (np.sort(ids, 1) != whole).any(1)
            np.testing.assert_array_equal(np.asarray(answer.flags), np.where(changed, troupe.SUBSTITUTED, 0))
            rows += len(hidden)
            changed_rows += int(changed.sum())
    assert 0 < changed_rows < rows
    assert cluster.metric("moe_group_limited_rows_total") == changed_rows
    assert cluster.metric("moe_tokens_total", 'outcome="substituted"') == changed_rows
    total, count = sum_and_count(cluster, "moe_dispatch_nodes_per_row")
    assert count == rows and rows <= total <= KEPT * rows
    total, count = sum_and_count(cluster, "moe_dispatch_messages_per_request")
    assert (total, count) == (NODES * len(limited_model.layers), len(limited_model.layers))


def test_everybody_says_that_routing_is_limited(limited_model, start_cluster):
    cluster = start_cluster(limited_model.folder, expert_nodes=2, dtype="f32", route_groups=GROUPS, route_groups_kept=KEPT)
    limit = {"groups": GROUPS, "kept": KEPT}
    assert cluster.status()["route_groups"] == limit
    models = json.loads(http_request(cluster.http + "/v1/models")[2])
    assert models["data"][0]["troupe"] == {"masked_experts": 0, "route_groups": limit}
    # A row needs four experts, and keeps two groups of two: none of a kept group may go, so none may go at all once
    # fewer than two whole groups would be left.
    for group in range(GROUPS - KEPT):
        cluster.json("expert", "prune", f"0/{2 * group}")
    refused = cluster.run("expert", "prune", f"0/{2 * (GROUPS - 1)}")
    assert refused.returncode == 4
    assert "in the groups that it keeps" in refused.stderr
    with cluster.connect() as client:
        assert (np.asarray(client.layer(0, limited_model.rows(8, 3)).expert_ids) >= 2 * (GROUPS - KEPT)).all()


@pytest.mark.parametrize(("model", "options", "message"), [
    ("mixtral", ("--route-groups", "3"), "choose a divisor"),
    ("mixtral", ("--route-groups", "8", "--route-groups-kept", "1"), "needs 2 experts for a row, and 1 are in the kept groups"),
    ("deepseek_v3", ("--route-groups", "4"), "has 4 groups of its own and keeps 2"),
    ("switch_transformers", ("--route-groups", "2"), "has a capacity")])
def test_what_cannot_be_limited_is_refused_before_anything_starts(tmp_path, model, options, message):
    from support.cluster import run_troupe

    done = run_troupe("up", "--model", golden.FOLDER / model, "--data-dir", tmp_path / "data", *options, "--detach")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("nodes", [4, 8])
def test_a_familys_own_groups_follow_nodes_and_stay_exact(family, nodes, start_cluster):
    config = golden.config(family)
    groups, kept = config["n_group"], config["topk_group"]
    cluster = start_cluster(golden.FOLDER / family, expert_nodes=nodes, dtype="f32")
    per_group = nodes // groups  # nodes that share a group's experts
    found = nodes_of_groups(cluster, config["n_routed_experts"] // groups)
    assert all(len(held) == per_group for held in found.values()), found
    rows = 0
    with cluster.connect() as client:
        for layer in golden.layers(family):
            golden.assert_matches(layer, client.layer(layer.name, layer.hidden), "f32")
            rows += len(layer.hidden)
    total, count = sum_and_count(cluster, "moe_dispatch_nodes_per_row")
    assert count == rows and total <= kept * per_group * rows
    assert cluster.metric("moe_group_limited_rows_total") == 0
