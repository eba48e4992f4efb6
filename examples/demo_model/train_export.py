"""Writes what train.py trained as a Hugging Face checkpoint of type `mixtral`, in bfloat16:

    python3 examples/demo_model/train_export.py --work build/demo_model --to examples/demo_model
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from train_data import ASSISTANT, BOS, EOS
from train_network import Network, Shape

CONTEXT_MAX = 1024
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}")


def tensors(network):
    """{published name: tensor}; the head is tied to the embeddings and has no tensor of its own."""
    result = {"model.embed_tokens.weight": network.embedding, "model.norm.weight": network.norm}
    for index, layer in enumerate(network.layers):
        prefix = f"model.layers.{index}."
        result[prefix + "input_layernorm.weight"] = layer.input_norm
        result[prefix + "post_attention_layernorm.weight"] = layer.post_norm
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            result[f"{prefix}self_attn.{name}.weight"] = getattr(layer.attention, name)
        result[prefix + "block_sparse_moe.gate.weight"] = layer.experts.gate
        for name in ("w1", "w2", "w3"):
            for expert, weight in enumerate(getattr(layer.experts, name)):
                result[f"{prefix}block_sparse_moe.experts.{expert}.{name}.weight"] = weight
    return {name: tensor.detach().bfloat16().contiguous().clone() for name, tensor in result.items()}


def config(shape, bos, eos):
    return {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16",
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.expert_width,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "num_local_experts": shape.experts, "num_experts_per_tok": shape.top_k,
        "hidden_act": "silu", "rms_norm_eps": shape.norm_epsilon, "rope_theta": shape.rope_theta, "sliding_window": None,
        "max_position_embeddings": CONTEXT_MAX, "tie_word_embeddings": True, "attention_dropout": 0.0,
        "initializer_range": 0.02, "output_router_logits": False, "router_aux_loss_coef": 0.01, "router_jitter_noise": 0.0,
        "use_cache": True, "bos_token_id": bos, "eos_token_id": eos,
    }


def tokenizer_config():
    return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": EOS,
            "model_max_length": CONTEXT_MAX, "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def export(network, tokenizer, folder):
    """`tokenizer`: path of tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token["content"]: token["id"] for token in json.loads(tokenizer.read_text())["added_tokens"]}
    save_file(tensors(network), folder / "model.safetensors", {"format": "pt"})
    shutil.copy(tokenizer, folder / "tokenizer.json")
    write_json(folder / "config.json", config(network.shape, ids[BOS], ids[EOS]))
    write_json(folder / "generation_config.json", {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "do_sample": True,
                                                   "temperature": 0.7, "top_p": 0.9})
    write_json(folder / "tokenizer_config.json", tokenizer_config())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--to", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    network = Network(Shape())
    network.load_state_dict(torch.load(arguments.work / "moe.pt")["network"])
    export(network, arguments.work / "tokenizer.json", arguments.to)


if __name__ == "__main__":
    main()
