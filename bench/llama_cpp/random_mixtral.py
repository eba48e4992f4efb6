"""A random Mixtral-type checkpoint, once as Hugging Face files (Troupe) and once as GGUF (llama.cpp): the same weights.

Rows of query and key weights are reordered for GGUF as llama.cpp's converter does it, because its rotary embedding pairs
neighbours where Hugging Face pairs halves. The tokenizer is as random as the rest: token 17 is the text " t17", so that every
token of an answer is a piece of text that can be sent at once.
"""
import json

import gguf
import numpy as np

from support import safetensors
from support.safetensors import narrow

CONFIG = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 1024, "intermediate_size": 512,
    "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 4, "num_local_experts": 32,
    "num_experts_per_tok": 4, "vocab_size": 4096, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "sliding_window": None,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16", "head_dim": None,
}


def make_tensors(seed):
    """Name (Hugging Face) -> bf16 bits. Scales keep activations near 1 and routing spread."""
    c, rng = CONFIG, np.random.default_rng(seed)
    hidden, width, head = c["hidden_size"], c["intermediate_size"], c["hidden_size"] // c["num_attention_heads"]

    def matrix(rows, columns, gain=1.0):
        return narrow(rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(gain / columns**0.5))

    ones = narrow(np.ones(hidden, np.float32))
    tensors = {"model.embed_tokens.weight": matrix(c["vocab_size"], hidden, hidden**0.5), "model.norm.weight": ones,
               "lm_head.weight": matrix(c["vocab_size"], hidden)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"] = tensors[at + "post_attention_layernorm.weight"] = ones
        tensors[at + "self_attn.q_proj.weight"] = matrix(hidden, hidden)
        tensors[at + "self_attn.k_proj.weight"] = matrix(c["num_key_value_heads"] * head, hidden)
        tensors[at + "self_attn.v_proj.weight"] = matrix(c["num_key_value_heads"] * head, hidden)
        tensors[at + "self_attn.o_proj.weight"] = matrix(hidden, hidden)
        tensors[at + "block_sparse_moe.gate.weight"] = matrix(c["num_local_experts"], hidden, 2.0)
        for expert in range(c["num_local_experts"]):
            of = f"{at}block_sparse_moe.experts.{expert}."
            tensors[of + "w1.weight"] = matrix(width, hidden)
            tensors[of + "w3.weight"] = matrix(width, hidden)
            tensors[of + "w2.weight"] = matrix(hidden, width)
    return tensors


def words(space):
    """Text of each token; `space`: how the tokenizer writes a space."""
    return ["<s>", "</s>"] + [f"{space}t{number}" for number in range(2, CONFIG["vocab_size"])]


def write_hugging_face(folder, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    values = {name: safetensors.widen(bits) for name, bits in tensors.items()}
    (folder / "model.safetensors").write_bytes(safetensors.encode(values, bf16=set(values)))
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {text: number for number, text in enumerate(words("\u0120"))}, "merges": []}}))


def pair_neighbours(bits, heads):
    """Rows of a query or key matrix, from halves to neighbours."""
    rows, columns = bits.shape
    return bits.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def add_tokenizer(out):
    """Only the end is no text: tokens of an answer are counted by their pieces of text, and requests ignore the end."""
    texts = words("\u2581")
    out.add_tokenizer_model("llama")
    out.add_token_list(texts)
    out.add_token_scores([0.0] * len(texts))
    out.add_token_types([gguf.TokenType.CONTROL if number == CONFIG["eos_token_id"] else gguf.TokenType.NORMAL
                         for number in range(len(texts))])
    out.add_bos_token_id(CONFIG["bos_token_id"])
    out.add_eos_token_id(CONFIG["eos_token_id"])


def write_gguf(path, tensors):
    c = CONFIG
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_context_length(c["max_position_embeddings"])
    out.add_embedding_length(c["hidden_size"])
    out.add_block_count(c["num_hidden_layers"])
    out.add_feed_forward_length(c["intermediate_size"])
    out.add_head_count(c["num_attention_heads"])
    out.add_head_count_kv(c["num_key_value_heads"])
    out.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    out.add_rope_freq_base(c["rope_theta"])
    out.add_layer_norm_rms_eps(c["rms_norm_eps"])
    out.add_expert_count(c["num_local_experts"])
    out.add_expert_used_count(c["num_experts_per_tok"])
    out.add_vocab_size(c["vocab_size"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    add_tokenizer(out)

    def add(name, bits):
        out.add_tensor(name, bits.view(np.uint8).reshape(*bits.shape[:-1], bits.shape[-1] * 2),
                       raw_dtype=gguf.GGMLQuantizationType.BF16)

    def add_f32(name, bits):
        out.add_tensor(name, (bits.astype(np.uint32) << 16).view(np.float32))

    add("token_embd.weight", tensors["model.embed_tokens.weight"])
    add_f32("output_norm.weight", tensors["model.norm.weight"])
    add("output.weight", tensors["lm_head.weight"])
    for layer in range(c["num_hidden_layers"]):
        at, to = f"model.layers.{layer}.", f"blk.{layer}."
        add_f32(to + "attn_norm.weight", tensors[at + "input_layernorm.weight"])
        add_f32(to + "ffn_norm.weight", tensors[at + "post_attention_layernorm.weight"])
        add(to + "attn_q.weight", pair_neighbours(tensors[at + "self_attn.q_proj.weight"], c["num_attention_heads"]))
        add(to + "attn_k.weight", pair_neighbours(tensors[at + "self_attn.k_proj.weight"], c["num_key_value_heads"]))
        add(to + "attn_v.weight", tensors[at + "self_attn.v_proj.weight"])
        add(to + "attn_output.weight", tensors[at + "self_attn.o_proj.weight"])
        add_f32(to + "ffn_gate_inp.weight", tensors[at + "block_sparse_moe.gate.weight"])
        for theirs, ours in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            stacked = np.stack([tensors[f"{at}block_sparse_moe.experts.{e}.{ours}.weight"]
                                for e in range(c["num_local_experts"])])
            add(f"{to}ffn_{theirs}_exps.weight", stacked)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
