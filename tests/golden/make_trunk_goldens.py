#!/usr/bin/env python3
"""Make small reference data for what the decoders' trunks can do beyond the nine families' goldens.

    make_trunk_goldens.py --out trunk [--only CASE,CASE]

Kinds of rotary embeddings, sliding windows, one KV head, tied embeddings, head sizes of their own, biases, clip_qkv,
dense layers in between. As make_goldens.py: tiny random models, stored in their file dtype, computed in float32 with
eager attention. transformers 4.57.3, torch CPU.

Files of a case: config.json, generation_config.json, model.safetensors, logits.safetensors {prompt_ids [P],
logits [P,V]}, generation.json (greedy continuations, with the smallest margin and routing gap met on the way).
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, set_seed

from make_goldens import Case, GapRecorder, randomise

NEW_TOKENS, PROMPT_LENGTHS, LOGITS_LENGTH = 20, (1, 6, 29), 40
MIN_MARGIN, MIN_GAP = 0.03, 2e-4


def common(**kw):
    base = dict(vocab_size=96, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2,
                max_position_embeddings=128, bos_token_id=0, eos_token_id=1, pad_token_id=None)
    return {**base, **kw}


def mixtral(**kw):
    return common(intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, **kw)


def qwen2(**kw):
    return common(intermediate_size=40, moe_intermediate_size=16, num_experts=6, shared_expert_intermediate_size=24,
                  num_experts_per_tok=2, **kw)


def qwen3(**kw):
    return common(intermediate_size=40, moe_intermediate_size=16, num_experts=6, num_experts_per_tok=2,
                  norm_topk_prob=True, **kw)


def olmoe(**kw):
    return common(intermediate_size=16, num_experts=6, num_experts_per_tok=2, **kw)


LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
YARN_FULL = dict(type="yarn", factor=2.5, original_max_position_embeddings=48, beta_fast=20, beta_slow=2, mscale=0.9,
                 mscale_all_dim=0.7, truncate=False)

CASES = [
    Case("mixtral_window_tied", "mixtral", mixtral(num_key_value_heads=1, sliding_window=11, tie_word_embeddings=True)),
    Case("mixtral_linear_wide_heads", "mixtral", mixtral(head_dim=20, rope_theta=5000.0,
         rope_scaling=dict(type="linear", factor=2.5)), dtype=torch.float16),
    Case("mixtral_dynamic", "mixtral", mixtral(num_key_value_heads=4, max_position_embeddings=24, head_dim=8,
         rope_scaling=dict(rope_type="dynamic", factor=3.0)), dtype=torch.float32),
    Case("qwen2_moe_window_yarn_dense", "qwen2_moe", qwen2(num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3],
         use_sliding_window=True, sliding_window=9, max_window_layers=2, rope_scaling=YARN)),
    Case("qwen2_moe_plain_yarn", "qwen2_moe", qwen2(qkv_bias=False, rope_scaling=YARN_FULL, num_key_value_heads=1)),
    Case("qwen3_moe_llama3_bias_dense", "qwen3_moe", qwen3(head_dim=16, num_hidden_layers=3, mlp_only_layers=[0],
         attention_bias=True, tie_word_embeddings=True, rope_scaling=LLAMA3)),
    Case("qwen3_moe_window", "qwen3_moe", qwen3(head_dim=16, use_sliding_window=True, sliding_window=7,
         num_key_value_heads=1)),
    Case("olmoe_clip_bias_groups", "olmoe", olmoe(clip_qkv=0.9, attention_bias=True,
         rope_scaling=dict(rope_type="default"))),
]


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def greedy(folder, prompt, cached):
    """A model of its own each time: a dynamic rope remembers the longest sequence that it has seen."""
    model = load(folder)
    recorder, ids, past, margin = GapRecorder(model), prompt, None, float("inf")
    for _ in range(NEW_TOKENS):
        if cached:
            out = model(input_ids=ids if past is None else ids[:, -1:], past_key_values=past, use_cache=True)
            past = out.past_key_values
        else:
            out = model(input_ids=ids, use_cache=False)
        top = out.logits[0, -1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids = torch.cat([ids, top.indices[None, :1]], 1)
    return ids[0, prompt.shape[1]:].tolist(), margin, recorder.stop().min().item()


def find_text(case, folder, gen, length):
    # Without a cache where that gives the same: the windowed caches of 4.57 are not needed then. A dynamic rope turns
    # remembered keys by the length that was known when they were made, so there the cache is part of the definition.
    cached = is_dynamic(case)
    for _ in range(200):
        prompt = torch.randint(2, case.config["vocab_size"], (1, length), generator=gen)
        answer, margin, gap = greedy(folder, prompt, cached)
        if margin > MIN_MARGIN and gap > MIN_GAP and len(set(answer)) > 4:
            return {"prompt_ids": prompt[0].tolist(), "greedy_ids": answer, "min_margin": margin, "min_top_k_gap": gap}
    raise SystemExit(f"{case.name}: no safe prompt of length {length}; try another seed")


def clearest_prompt(case, folder, gen):
    """The one of many whose experts are chosen most clearly: bf16 then chooses the same."""
    best, widest = None, 0.0
    for _ in range(100):
        prompt = torch.randint(2, case.config["vocab_size"], (1, LOGITS_LENGTH), generator=gen)
        model = load(folder) if best is None or is_dynamic(case) else model
        recorder = GapRecorder(model)
        model(input_ids=prompt, use_cache=False)
        gap = recorder.stop().min().item()
        if gap > widest:
            best, widest = prompt, gap
    return best


def is_dynamic(case):
    return (case.config.get("rope_scaling") or {}).get("rope_type") == "dynamic"


def make(case, number, out):
    folder = out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    gen = torch.Generator().manual_seed(9000 + number)
    set_seed(9000 + number)
    from transformers import AutoConfig
    config = AutoConfig.for_model(case.family, **case.config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, case, gen)
    model.to(case.dtype).save_pretrained(folder)
    prompt = clearest_prompt(case, folder, gen)
    logits = load(folder)(input_ids=prompt, use_cache=False).logits[0]
    save_file({"prompt_ids": prompt[0].int().contiguous(), "logits": logits.contiguous()}, folder / "logits.safetensors")
    texts = [find_text(case, folder, gen, length) for length in PROMPT_LENGTHS]
    (folder / "generation.json").write_text(json.dumps({"cases": texts}, separators=(",", ":")) + "\n")
    print(case.name, sum(f.stat().st_size for f in folder.iterdir()) // 1024, "KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    for number, case in enumerate(CASES):
        if not args.only or case.name in args.only.split(","):
            make(case, number, args.out)


if __name__ == "__main__":
    main()
