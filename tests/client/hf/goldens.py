"""The golden models of tests/golden, as transformers loads them, and the comparison with what was recorded of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other

GOLDENS = Path(__file__).parents[2] / "golden" / "dev"
FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"]


def load_local(family: str) -> Any:
    """The whole model in float32, as the goldens were computed."""
    return transformers.AutoModelForCausalLM.from_pretrained(GOLDENS / family, dtype=torch.float32).eval()


def logits_difference(model: Any, family: str) -> float:
    """Largest difference from the recorded logits, relative to their largest absolute value."""
    recorded = load_file(GOLDENS / family / "logits.safetensors")
    with torch.no_grad():
        logits = model(input_ids=recorded["prompt_ids"][None].long(), use_cache=False).logits[0].float()
    return float((logits - recorded["logits"]).abs().max() / recorded["logits"].abs().max())


def greedy_matches(model: Any, family: str) -> int:
    """How many recorded greedy continuations come out identical; AssertionError at the first that does not."""
    cases = json.loads((GOLDENS / family / "generation.json").read_text())["cases"]
    for number, case in enumerate(cases):
        prompt = torch.tensor([case["prompt_ids"]])
        wanted = case["greedy_ids"]
        with torch.no_grad():
            got = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=len(wanted),
                max_new_tokens=len(wanted),
                pad_token_id=0,
            )[0, prompt.shape[1] :].tolist()
        assert got == wanted, f"{family}, case {number}: {got} instead of {wanted}"
    return len(cases)
