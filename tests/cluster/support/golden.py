"""The golden checkpoints of tests/golden/dev (and of quantised beside it) and what the reference computed for each of their MoE layers."""
import json
import pathlib
import re
from dataclasses import dataclass

import numpy as np

from support.safetensors import load

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "golden" / "dev"
FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "switch_transformers",
            "vmoe"]
QUANTISED = ["deepseek_v3_fp8", "gpt_oss_mxfp4"]
# Of the reference's largest absolute value (issue "Must show" 2).
TOLERANCE = {"f32": 2e-5, "bf16": 2e-2}
WEIGHT_TOLERANCE = 1e-5


@dataclass
class GoldenLayer:
    name: str  # as clients call it: "3", "encoder.1"
    hidden: np.ndarray
    expert_ids: np.ndarray
    expert_weights: np.ndarray
    routed_output: np.ndarray
    block_output: np.ndarray
    dropped: np.ndarray  # [T, k] or None


def folder(case):
    """Of a family, or of a quantised checkpoint."""
    return FOLDER.parent / "quantised" / case if case in QUANTISED else FOLDER / case


def layers(family):
    """Every MoE layer of a golden, in the checkpoint's default order of filling."""
    tensors = load(folder(family) / "layers.safetensors")
    found = []
    for name in sorted(tensors):
        match = re.fullmatch(r"((?:encoder\.|decoder\.)?)layer\.(\d+)\.input", name)
        if not match:
            continue
        prefix = name.removesuffix(".input")
        # V-MoE stores both orders; its config.json asks for neither in particular, which means token order.
        order = ".vanilla" if f"{prefix}.vanilla.routed_output" in tensors else ""
        routed = tensors[f"{prefix}{order}.routed_output"]
        dropped = tensors.get(f"{prefix}{order}.dropped")
        if dropped is not None:  # Switch stores one value per token, V-MoE one per choice
            dropped = dropped.reshape(len(routed), -1)
        found.append(GoldenLayer(match[1] + match[2], tensors[name], tensors[f"{prefix}.expert_ids"],
                                 tensors[f"{prefix}.expert_weights"], routed,
                                 tensors.get(f"{prefix}.block_output", routed), dropped))
    assert found, f"{family} has no layers"
    return found


def config(family):
    return json.loads((FOLDER / family / "config.json").read_text())


def relative_error(answer, reference):
    answer, reference = np.asarray(answer, np.float32), np.asarray(reference, np.float32)
    assert answer.shape == reference.shape
    return float(np.abs(answer - reference).max() / np.abs(reference).max())


def assert_matches(layer, answer, dtype):
    """`answer` has output, routed_output, expert_ids, expert_weights and flags, as the Python client returns them."""
    order = np.argsort(answer.expert_ids, 1, kind="stable")
    expected = np.argsort(layer.expert_ids, 1, kind="stable")
    np.testing.assert_array_equal(np.take_along_axis(answer.expert_ids, order, 1),
                                  np.take_along_axis(layer.expert_ids, expected, 1))
    np.testing.assert_allclose(np.take_along_axis(answer.expert_weights, order, 1),
                               np.take_along_axis(layer.expert_weights, expected, 1), rtol=0, atol=WEIGHT_TOLERANCE)
    assert relative_error(answer.routed_output, layer.routed_output) <= TOLERANCE[dtype]
    assert relative_error(answer.output, layer.block_output) <= TOLERANCE[dtype]
    dropped = np.zeros(len(layer.hidden), bool) if layer.dropped is None else layer.dropped.any(1)
    np.testing.assert_array_equal(np.asarray(answer.flags), np.where(dropped, 4, 0))
