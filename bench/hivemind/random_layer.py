"""The layer that both sides serve: random SwiGLU experts, as tensors and as a checkpoint; and rows to send through it."""
import json

import torch

from support import safetensors

HIDDEN, WIDTH, EXPERTS, TOP_K = 2048, 1024, 64, 8
WEIGHT_BYTES = EXPERTS * 3 * HIDDEN * WIDTH * 2
SHAPES = {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}


def make_weights(seed):
    """{name of SHAPES: bf16 [EXPERTS, *shape]}, scaled so that activations keep order one."""
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.randn((EXPERTS, *shape), generator=generator) / shape[1] ** 0.5).to(torch.bfloat16)
            for name, shape in SHAPES.items()}


def write_checkpoint(folder, weights):
    """A Qwen3-MoE checkpoint of one layer that holds exactly these experts."""
    config = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": HIDDEN,
              "moe_intermediate_size": WIDTH, "intermediate_size": WIDTH, "num_experts": EXPERTS,
              "num_experts_per_tok": TOP_K, "norm_topk_prob": True, "num_hidden_layers": 1, "decoder_sparse_step": 1,
              "mlp_only_layers": [], "hidden_act": "silu", "vocab_size": 8, "num_attention_heads": 16,
              "num_key_value_heads": 16, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"model.layers.0.mlp.gate.weight": torch.randn((EXPERTS, HIDDEN)).numpy()}
    for expert in range(EXPERTS):
        for name in SHAPES:
            tensors[f"model.layers.0.mlp.experts.{expert}.{name}_proj.weight"] = weights[name][expert].float().numpy()
    (folder / "model.safetensors").write_bytes(safetensors.encode(tensors, bf16=set(tensors)))


def requests(rows, count, seed):
    """`count` times (hidden [rows, HIDDEN] bf16, expert ids [rows, TOP_K], their weights with sums of 1)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        hidden = torch.randn((rows, HIDDEN), generator=generator).to(torch.bfloat16)
        top = torch.rand((rows, EXPERTS), generator=generator).topk(TOP_K, dim=1)
        yield hidden, top.indices, top.values / top.values.sum(1, keepdim=True)
