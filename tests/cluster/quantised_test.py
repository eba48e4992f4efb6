"""Checkpoints whose weights are fp8 and mxfp4: served as the reference computes them, moved and refreshed like others."""
import json
import shutil
import struct

import numpy as np
import pytest

from support import golden
from support.cluster import run_troupe
from support.http_layer import post_layer


@pytest.mark.parametrize(("case", "dtype"), [("deepseek_v3_fp8", "f32"), ("deepseek_v3_fp8", "auto"),
                                             ("gpt_oss_mxfp4", "f32"), ("gpt_oss_mxfp4", "auto")])
def test_every_layer_is_that_of_the_reference(start_cluster, case, dtype):
    cluster = start_cluster(golden.folder(case), expert_nodes=3, dtype=dtype)
    tolerance = "bf16" if dtype == "auto" else dtype
    with cluster.connect() as client:
        for layer in golden.layers(case):
            golden.assert_matches(layer, client.layer(layer.name, layer.hidden), tolerance)
            golden.assert_matches(layer, post_layer(cluster.http, layer.name, layer.hidden), tolerance)


def double_scales(folder, tensor):
    """Rewrites the F32 scales of a tensor in place."""
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    first, last = json.loads(raw[8:begin])[tensor]["data_offsets"]
    scales = np.frombuffer(raw, np.float32, (last - first) // 4, begin + first).copy()
    raw[begin + first:begin + last] = (scales * np.float32(2)).tobytes()
    path.write_bytes(raw)


def test_experts_move_and_get_new_scales(tmp_path, start_cluster):
    served = golden.folder("deepseek_v3_fp8")
    cluster = start_cluster(served, expert_nodes=3, slots=6, dtype="f32")
    layer = golden.layers("deepseek_v3_fp8")[0]
    ids = np.full((len(layer.hidden), 1), 5, np.int32)
    ones = np.ones(ids.shape, np.float32)
    with cluster.connect() as client:
        before = client.experts(layer.name, layer.hidden, ids, ones).output
        home = cluster.expert("1/5")["replicas"][0]["node"]
        other = next(node for node in ("expert-0", "expert-1", "expert-2") if node != home)
        assert cluster.run("expert", "migrate", "1/5", "--to", other).returncode == 0
        assert cluster.expert("1/5")["replicas"][0]["node"] == other
        np.testing.assert_array_equal(client.experts(layer.name, layer.hidden, ids, ones).output, before)

        following = tmp_path / "next"
        shutil.copytree(served, following)
        double_scales(following, "model.layers.1.mlp.experts.5.down_proj.weight_scale_inv")
        assert cluster.run("refresh", "now", "--from", following).returncode == 0
        assert cluster.expert("1/5")["version"] == 2
        np.testing.assert_array_equal(client.experts(layer.name, layer.hidden, ids, ones).output, 2 * before)


def test_model_verbs_say_what_is_stored_and_what_it_takes(tmp_path):
    folder = golden.folder("gpt_oss_mxfp4")
    told = json.loads(run_troupe("model", "inspect", folder, "-o", "json").stdout)
    assert told["dtype"] == "MXFP4"
    per_expert = told["layers"][0]["bytes_per_expert"]
    planned = run_troupe("model", "plan", folder, "-o", "json")
    assert json.loads(planned.stdout)["stored_bytes"] == told["expert_bytes"]
    assert json.loads(planned.stdout)["slot_bytes"] > 3 * per_expert
    assert "widened" in planned.stderr
    assert run_troupe("model", "verify", folder).returncode == 0

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "awq"
    (broken / "config.json").write_text(json.dumps(config))
    refused = run_troupe("model", "inspect", broken)
    assert refused.returncode == 1
    assert "awq" in refused.stderr and "convert the checkpoint to BF16" in refused.stderr
