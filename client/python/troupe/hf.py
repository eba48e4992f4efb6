"""Hugging Face models whose experts live in the cluster: Mixtral, Qwen2-MoE, Qwen3-MoE and OLMoE of transformers 4.57.

    model = troupe.hf.attach(hf_model, cluster)      # of a model you have
    model = troupe.hf.load("DIR", cluster)           # reads everything but the experts' weights

Attention, norms, embeddings and the head stay local; each MoE block sends its input [batch * sequence, hidden] to the
cluster and gets the block's output back, shared experts included. For inference: no gradient flows through the cluster.
torch and transformers are imported when a function of this module is called, not before.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from troupe import _limits, _tensors
from troupe.client import Cluster
from troupe.errors import InvalidRequest

# Class of the MoE block -> family, as the cluster names it.
_BLOCKS = {
    "MixtralSparseMoeBlock": "mixtral",
    "Qwen2MoeSparseMoeBlock": "qwen2_moe",
    "Qwen3MoeSparseMoeBlock": "qwen3_moe",
    "OlmoeSparseMoeBlock": "olmoe",
}
# What a block owns that the cluster computes. The gate stays: its logits are part of what a block returns.
_REMOTE_PARTS = ("experts", "shared_expert", "shared_expert_gate")
_BLOCK_NAME = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:mlp|block_sparse_moe)$")
_REMOTE_WEIGHT = re.compile(r"\.layers\.\d+\.(?:mlp|block_sparse_moe)\.(?:experts|shared_expert|shared_expert_gate)\.")


def attach(model: Any, cluster: Cluster, *, degrade: Optional[str] = None, timeout: Optional[float] = None) -> Any:
    """Puts ``cluster`` in the place of the experts of ``model`` and returns the same model.

    The experts' weights are freed; they need not be in memory before (``device="meta"``). ``degrade`` and ``timeout``
    are those of :meth:`troupe.Cluster.layer`, for every call. The cluster must stay open while the model is used.

    Raises InvalidRequest when the model has no MoE block of a known family, or is not the model of the cluster.
    """
    _check_transformers()
    found = list(_blocks_of(model))
    if not found:
        known = ", ".join(sorted(_BLOCKS.values()))
        raise InvalidRequest(f"{type(model).__name__} has no MoE block of a known family; known are {known}")
    _check_same_model(model, cluster, _BLOCKS[_class_name(found[0][1])])
    for layer, block in found:
        _make_remote(block, layer, cluster, degrade, timeout)
    return model


def load(
    path: Any,
    cluster: Cluster,
    *,
    dtype: Any = None,
    degrade: Optional[str] = None,
    timeout: Optional[float] = None,
) -> Any:
    """The causal language model of a checkpoint folder, attached to ``cluster``; the experts' weights are never read.

    ``dtype`` is a torch dtype for all weights; by default each keeps the one of its file. The model is on the CPU and
    in evaluation mode. Raises InvalidRequest as :func:`attach` does, and for a checkpoint that lacks a tensor.
    """
    import torch
    import transformers

    _check_transformers()
    folder = Path(path)
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    attach(model, cluster, degrade=degrade, timeout=timeout)
    model.load_state_dict(_local_weights(folder, dtype), strict=False, assign=True)
    model.tie_weights()
    _compute_buffers(model)
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing:
        raise InvalidRequest(
            f"{folder} lacks {len(missing)} tensors of {type(model).__name__}, {missing[0]} among them"
        )
    if (folder / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model.eval()


# -- blocks -----------------------------------------------------------------------------------------------------------


def _blocks_of(model: Any) -> Iterator[Tuple[int, Any]]:
    """(number in the checkpoint, block) of every MoE block, attached already or not."""
    for name, module in model.named_modules():
        place = _BLOCK_NAME.search(name)
        if place and _class_name(module) in _BLOCKS:
            yield int(place.group(1)), module


def _class_name(block: Any) -> str:
    """The name of transformers' class, also of a block that was made remote."""
    kind = type(block)
    return str(kind.__mro__[1].__name__ if kind.__name__.startswith("Remote") else kind.__name__)


def _make_remote(block: Any, layer: int, cluster: Cluster, degrade: Optional[str], timeout: Optional[float]) -> None:
    """Turns a block into one that asks the cluster; whoever holds it, and hooks on it, keep working."""
    kind = type(block)
    if not kind.__name__.startswith("Remote"):
        # A subclass, because transformers finds the blocks whose router logits it records by their class.
        block.__class__ = type(f"Remote{kind.__name__}", (kind,), {"forward": _remote_forward})
    for part in _REMOTE_PARTS:
        if hasattr(block, part):
            delattr(block, part)
    # Past nn.Module's bookkeeping: they are neither parameters nor modules.
    object.__setattr__(block, "_troupe_call", (cluster, layer, degrade, timeout))


def _remote_forward(self: Any, hidden_states: Any) -> Tuple[Any, Any]:
    """What forward() of these blocks returns: the output, shaped as the input, and the router's logits [rows, experts].

    The logits are None when the gate's weights are not in memory.
    """
    import torch

    cluster, layer, degrade, timeout = self._troupe_call
    rows = hidden_states.detach().reshape(-1, hidden_states.shape[-1])
    outputs: List[Any] = []
    for piece in rows.split(_rows_per_call(rows)):
        result = cluster.layer(layer, piece, degrade=degrade, timeout=timeout)
        outputs.append(_tensors.to_torch(result.output))
    output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    logits = None if self.gate.weight.is_meta else self.gate(rows)
    return output.to(hidden_states.device).view(hidden_states.shape), logits


def _rows_per_call(rows: Any) -> int:
    """In these families a row's result does not depend on the other rows, so long inputs can be cut."""
    fitting = int(_limits.TENSOR_BYTES_MAX // (rows.shape[-1] * rows.element_size()))
    return max(1, min(_limits.ROWS_PER_REQUEST_MAX, fitting))


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_transformers() -> None:
    import transformers

    major = int(transformers.__version__.split(".")[0])
    if major != 4:
        # From 5 on the blocks return something else, and keep their experts in packed tensors.
        raise InvalidRequest(f"troupe.hf knows transformers 4.57, this is {transformers.__version__}; install 4.57")


def _check_same_model(model: Any, cluster: Cluster, family: str) -> None:
    served = cluster.model()
    local = {"family": family, "hidden_size": model.config.hidden_size}
    for field, value in local.items():
        if field in served and served[field] != value:
            raise InvalidRequest(
                f"the cluster serves a model with {field} {served[field]}, this one has {value}; "
                "connect to the cluster that serves the same checkpoint"
            )


# -- loading ----------------------------------------------------------------------------------------------------------


def _local_weights(folder: Path, dtype: Any) -> Dict[str, Any]:
    """All tensors of a checkpoint but those that the cluster has."""
    import safetensors

    weights: Dict[str, Any] = {}
    for file in _weight_files(folder):
        with safetensors.safe_open(file, framework="pt") as opened:
            for name in opened.keys():
                if _REMOTE_WEIGHT.search(name):
                    continue
                tensor = opened.get_tensor(name)
                weights[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    return weights


def _weight_files(folder: Path) -> List[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if not single.exists():
        raise InvalidRequest(f"{folder} has neither model.safetensors nor its index; pass a checkpoint folder")
    return [single]


def _compute_buffers(model: Any) -> None:
    """Rotary embeddings are computed from the config, not stored: make those of the meta device anew."""
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, type(module)(module.config))
