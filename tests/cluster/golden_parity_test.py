"""Every MoE layer of every family through a coordinator, three expert nodes and a router, against the reference."""
import json
import shutil

import pytest

from support import golden
from support.cluster import LocalCluster
from support.http_layer import post_layer
from support.safetensors import load


@pytest.fixture(scope="module", params=[(family, dtype) for family in golden.FAMILIES for dtype in ("f32", "bf16")],
                ids=lambda p: "-".join(p))
def served(request):
    family, dtype = request.param
    with LocalCluster(golden.FOLDER / family, expert_nodes=3, dtype=dtype) as cluster:
        yield cluster, family, dtype


def test_python_client(served):
    cluster, family, dtype = served
    with cluster.connect() as client:
        for layer in golden.layers(family):
            golden.assert_matches(layer, client.layer(layer.name, layer.hidden), dtype)


def test_http(served):
    cluster, family, dtype = served
    for layer in golden.layers(family):
        golden.assert_matches(layer, post_layer(cluster.http, layer.name, layer.hidden), dtype)


def test_experts_for_callers_that_gated(served):
    cluster, family, dtype = served
    with cluster.connect() as client:
        for layer in golden.layers(family):
            ids = layer.expert_ids
            if layer.dropped is not None:
                ids = ids.copy()
                ids[layer.dropped != 0] = -1
            answer = client.experts(layer.name, layer.hidden, ids, layer.expert_weights)
            assert golden.relative_error(answer.output, layer.routed_output) <= golden.TOLERANCE[dtype]


def test_every_node_holds_some_experts(served):
    cluster, _, _ = served
    experts = cluster.experts()
    assert all(len(e["replicas"]) == 1 and e["state"] == "active" for e in experts)
    assert {e["replicas"][0]["node"] for e in experts} == {"expert-0", "expert-1", "expert-2"}


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_answers_come_in_the_dtype_of_the_request(mixtral_cluster, dtype):
    layer = golden.layers("mixtral")[0]
    answer = post_layer(mixtral_cluster.http, layer.name, layer.hidden, dtype=dtype)
    # Half-precision inputs and outputs cost about as much as bf16 experts.
    assert golden.relative_error(answer.output, layer.block_output) <= golden.TOLERANCE["bf16"]
    if dtype == "F16":
        assert answer.output.dtype == "float16"


@pytest.mark.parametrize(("config", "reference"), [
    ({"batch_priority": True}, "layer.0.batch_priority.routed_output"),
    ({"batch_priority": True, "hidden_act": "gelu_tanh"}, "layer.0.batch_priority.routed_output_gelu_tanh"),
    ({"hidden_act": "gelu_tanh"}, "layer.0.vanilla.routed_output_gelu_tanh")])
def test_vmoe_as_its_config_says(tmp_path, start_cluster, config, reference):
    folder = tmp_path / "vmoe"
    shutil.copytree(golden.FOLDER / "vmoe", folder)
    (folder / "config.json").write_text(json.dumps({**golden.config("vmoe"), **config}))
    tensors = load(folder / "layers.safetensors")
    cluster = start_cluster(folder, expert_nodes=3, dtype="f32")
    with cluster.connect() as client:
        answer = client.layer(0, tensors["layer.0.input"])
    assert golden.relative_error(answer.output, tensors[reference]) <= golden.TOLERANCE["f32"]


def test_a_checkpoint_of_odd_sizes(tmp_path, start_cluster):
    from support.random_model import RandomMixtral

    model = RandomMixtral(tmp_path / "odd", hidden=72, width=40, experts=5, top_k=3, layers=3, seed=7)
    cluster = start_cluster(model.folder, expert_nodes=2, dtype="f32")
    with cluster.connect() as client:
        for layer in model.layers:
            hidden = model.rows(33, layer)
            answer = client.layer(layer, hidden)
            assert golden.relative_error(answer.output, model.compute(layer, hidden)) <= golden.TOLERANCE["f32"]
