"""troupe.hf against real clusters: three expert nodes on each golden checkpoint, started from build/bin."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
import troupe
from goldens import FAMILIES, GOLDENS, greedy_matches, load_local, logits_difference
from safetensors.torch import load_file

TROUPE = Path(__file__).parents[3] / "build" / "bin" / "troupe"
TOLERANCE = 2e-5  # of the largest absolute logit; the cluster computes in f32


def run(*arguments: str) -> None:
    done = subprocess.run([str(TROUPE), *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"troupe {' '.join(arguments)}: {done.stderr}"


@pytest.fixture(scope="module", params=FAMILIES)
def served(request: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """(family, connection to a cluster that serves it)."""
    family = request.param
    data_dir = str(tmp_path_factory.mktemp(family) / "data")
    model = str(GOLDENS / family)
    try:
        run("up", "--model", model, "--expert-nodes", "3", "--dtype", "f32", "--data-dir", data_dir, "--detach")
        with troupe.connect(data_dir=data_dir) as cluster:
            yield family, cluster
    finally:
        run("down", "--data-dir", data_dir)


def test_attached_model_gives_the_recorded_logits_and_tokens(served: Any) -> None:
    family, cluster = served
    model = troupe.hf.attach(load_local(family), cluster)
    assert logits_difference(model, family) <= TOLERANCE
    assert greedy_matches(model, family) > 0


def test_loaded_model_gives_the_recorded_logits_and_tokens(served: Any) -> None:
    family, cluster = served
    model = troupe.hf.load(GOLDENS / family, cluster, dtype=torch.float32)
    assert logits_difference(model, family) <= TOLERANCE
    assert greedy_matches(model, family) > 0


def test_attached_model_agrees_with_the_local_one(served: Any) -> None:
    family, cluster = served
    local, attached = load_local(family), troupe.hf.attach(load_local(family), cluster)
    # A batch of two of the recorded prompt, whose routing choices are known to be far from ties.
    tokens = load_file(GOLDENS / family / "logits.safetensors")["prompt_ids"].long().expand(2, -1)
    with torch.no_grad():
        wanted, got = local(input_ids=tokens).logits, attached(input_ids=tokens).logits
    assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
