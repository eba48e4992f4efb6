"""troupe.hf on the golden checkpoints, with a stand-in for the cluster that computes blocks by the original modules."""

from __future__ import annotations

import re
import types
from typing import Any, Dict, List

import pytest
import torch
import transformers
import troupe
from goldens import FAMILIES, GOLDENS, greedy_matches, load_local, logits_difference

BLOCK = re.compile(r"layers\.(\d+)\.(?:mlp|block_sparse_moe)$")


class StandIn:
    """Answers layer() with the blocks of a local model; notes what it was asked."""

    def __init__(self, family: str) -> None:
        model = load_local(family)
        self.family = family
        self.hidden_size = model.config.hidden_size
        self.calls: List[Any] = []
        self.blocks: Dict[int, Any] = {}
        for name, module in model.named_modules():
            place = BLOCK.search(name)
            if place and hasattr(module, "gate") and hasattr(module, "experts"):
                self.blocks[int(place.group(1))] = module

    def model(self) -> Dict[str, Any]:
        return {"family": self.family, "hidden_size": self.hidden_size}

    def layer(self, layer: int, hidden: Any, degrade: Any = None, timeout: Any = None) -> Any:
        assert hidden.dim() == 2 and not hidden.requires_grad
        self.calls.append((layer, tuple(hidden.shape), degrade, timeout))
        with torch.no_grad():
            output = self.blocks[layer](hidden[None].float())[0][0].to(hidden.dtype)
        if hidden.dtype == torch.bfloat16:
            return types.SimpleNamespace(output=output)
        return types.SimpleNamespace(output=output.numpy())


@pytest.fixture(params=FAMILIES)
def family(request: Any) -> str:
    return str(request.param)


def remote_bytes(model: Any) -> int:
    pattern = re.compile(r"\.(experts|shared_expert|shared_expert_gate)\.")
    return sum(p.numel() for name, p in model.named_parameters() if pattern.search(name))


def test_attached_model_gives_the_recorded_logits_and_tokens(family: str) -> None:
    cluster = StandIn(family)
    model = load_local(family)
    assert remote_bytes(model) > 0
    assert troupe.hf.attach(model, cluster) is model
    assert remote_bytes(model) == 0
    assert logits_difference(model, family) < 2e-5
    assert {call[0] for call in cluster.calls} == set(cluster.blocks)
    assert greedy_matches(model, family) > 0


def test_loaded_model_never_has_the_experts(family: str) -> None:
    cluster = StandIn(family)
    model = troupe.hf.load(GOLDENS / family, cluster, dtype=torch.float32)
    assert remote_bytes(model) == 0 and not any(tensor.is_meta for tensor in model.state_dict().values())
    assert logits_difference(model, family) < 2e-5


def test_router_logits_are_those_of_the_local_model(family: str) -> None:
    cluster, local = StandIn(family), load_local(family)
    model = troupe.hf.attach(load_local(family), cluster)
    tokens = torch.arange(10, 26)[None]
    with torch.no_grad():
        got = model(input_ids=tokens, output_router_logits=True).router_logits
        wanted = local(input_ids=tokens, output_router_logits=True).router_logits
    assert len(got) == len(wanted) > 0
    for one, other in zip(got, wanted):
        assert torch.allclose(one, other, atol=1e-4)


def test_experts_on_the_meta_device_are_enough(family: str) -> None:
    model = load_local(family)
    for name, module in model.named_modules():
        if BLOCK.search(name) and hasattr(module, "experts"):
            module.experts.to("meta")
    assert logits_difference(troupe.hf.attach(model, StandIn(family)), family) < 2e-5


def test_options_reach_every_call_and_may_be_changed(family: str) -> None:
    cluster = StandIn(family)
    model = troupe.hf.attach(load_local(family), cluster, degrade="renormalise", timeout=3.0)
    model(input_ids=torch.tensor([[5, 6, 7]]))
    assert {call[1:] for call in cluster.calls} == {((3, cluster.hidden_size), "renormalise", 3.0)}
    other = StandIn(family)
    troupe.hf.attach(model, other)
    model(input_ids=torch.tensor([[5, 6], [7, 8]]))
    assert {call[1:] for call in other.calls} == {((4, cluster.hidden_size), None, None)}


def test_bfloat16_goes_there_and_back() -> None:
    cluster = StandIn("qwen3_moe")
    model = troupe.hf.load(GOLDENS / "qwen3_moe", cluster, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits).all()


def test_long_inputs_are_cut(monkeypatch: Any) -> None:
    monkeypatch.setattr("troupe._limits.ROWS_PER_REQUEST_MAX", 5)
    cluster = StandIn("olmoe")
    model = troupe.hf.attach(load_local("olmoe"), cluster)
    assert logits_difference(model, "olmoe") < 2e-5
    assert max(call[1][0] for call in cluster.calls) == 5


def test_another_model_is_refused() -> None:
    with pytest.raises(troupe.InvalidRequest, match="serves a model with family olmoe"):
        troupe.hf.attach(load_local("mixtral"), StandIn("olmoe"))


def test_a_model_without_such_blocks_is_refused() -> None:
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(troupe.InvalidRequest, match="no MoE block"):
        troupe.hf.attach(transformers.LlamaForCausalLM(config), StandIn("olmoe"))


def test_a_folder_without_weights_is_refused(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text((GOLDENS / "olmoe" / "config.json").read_text())
    with pytest.raises(troupe.InvalidRequest, match="neither model.safetensors"):
        troupe.hf.load(tmp_path, StandIn("olmoe"))
