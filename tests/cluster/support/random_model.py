"""A plain numpy twin of a Mixtral checkpoint's MoE layers, and a random checkpoint of any size."""
import json

import numpy as np

from support import safetensors


class MixtralTwin:
    """Reads the checkpoint of that folder and computes with what it stores."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.folder, self.hidden, self.width = folder, config["hidden_size"], config["intermediate_size"]
        self.experts, self.top_k = config["num_local_experts"], config["num_experts_per_tok"]
        self.layers = list(range(config["num_hidden_layers"]))
        self.bundle_bytes = 3 * self.hidden * self.width * 2
        self.tensors = safetensors.load(folder / "model.safetensors")

    def rows(self, count, seed):
        return np.random.default_rng(seed).standard_normal((count, self.hidden), np.float32)

    def choose(self, layer, hidden, masked=()):
        """-> expert ids [T, k], best first, and renormalised weights [T, k], as if there were no `masked` experts"""
        logits = hidden @ self.tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"].T
        logits[:, list(masked)] = -np.inf
        ids = np.argsort(-logits, 1, kind="stable")[:, : self.top_k]
        chosen = np.take_along_axis(logits, ids, 1)
        weights = np.exp(chosen - chosen.max(1, keepdims=True))
        return ids.astype(np.int32), weights / weights.sum(1, keepdims=True)

    def expert_output(self, layer, hidden, experts):
        """Of each row [T, H] the output of its expert [T], not weighted."""
        output = np.zeros_like(hidden)
        for expert in np.unique(experts):
            rows = experts == expert
            prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}"
            gate = hidden[rows] @ self.tensors[f"{prefix}.w1.weight"].T
            up = hidden[rows] @ self.tensors[f"{prefix}.w3.weight"].T
            act = gate / (1 + np.exp(-gate)) * up
            output[rows] = act @ self.tensors[f"{prefix}.w2.weight"].T
        return output

    def compute(self, layer, hidden, masked=()):
        """The routed output, which for Mixtral is the whole block."""
        ids, weights = self.choose(layer, hidden, masked)
        return sum(weights[:, i, None] * self.expert_output(layer, hidden, ids[:, i]) for i in range(self.top_k))


class RandomMixtral(MixtralTwin):
    def __init__(self, folder, hidden=256, width=512, experts=16, top_k=2, layers=2, seed=1):
        random = np.random.default_rng(seed)
        tensors = {}
        for layer in range(layers):
            block = f"model.layers.{layer}.block_sparse_moe"
            tensors[f"{block}.gate.weight"] = random.standard_normal((experts, hidden), np.float32)
            for expert in range(experts):
                for name, shape in (("w1", (width, hidden)), ("w2", (hidden, width)), ("w3", (width, hidden))):
                    scale = np.float32(shape[1] ** -0.5)
                    tensors[f"{block}.experts.{expert}.{name}.weight"] = random.standard_normal(shape, np.float32) * scale
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(safetensors.encode(tensors, bf16=set(tensors)))
        (folder / "config.json").write_text(json.dumps({
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": hidden,
            "intermediate_size": width, "num_hidden_layers": layers, "num_local_experts": experts,
            "num_experts_per_tok": top_k, "num_attention_heads": 4, "num_key_value_heads": 1, "hidden_act": "silu",
            "vocab_size": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "torch_dtype": "bfloat16"}))
        super().__init__(folder)
